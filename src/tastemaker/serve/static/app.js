// Keys, before-and-after sliders, and a key for every POST so that sending twice stores once. htmx does the rest.
"use strict";

const typing = (element) => element.closest("input:not([type=checkbox]):not([type=range]), select, textarea, [contenteditable]");

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat || typing(event.target)) return;
  if (event.target.type === "range" && event.key.startsWith("Arrow")) return;
  if (event.key === " " && event.target.closest("button, summary, a, input")) return; // there it means "press this"
  const control = document.querySelector(`[data-key="${CSS.escape(event.key)}"]`);
  if (!control) return;
  event.preventDefault();
  control.click();
});

const random = () => Array.from(crypto.getRandomValues(new Uint8Array(12)), (byte) => byte.toString(16).padStart(2, "0")).join("");

document.addEventListener("htmx:configRequest", (event) => {
  if (event.detail.verb === "post") event.detail.headers["Idempotency-Key"] = random();
});

document.addEventListener("htmx:beforeSwap", (event) => {
  if (event.detail.xhr.status < 400) document.getElementById("notice").replaceChildren();
});

document.addEventListener("htmx:sendError", () => {
  document.getElementById("notice").innerHTML = '<p class="problem"><b>The gallery does not answer.</b> Try again in a moment.</p>';
});

document.addEventListener("input", (event) => {
  const range = event.target;
  if (range.type !== "range") return;
  range.closest("[data-slider]")?.querySelector(".over").style.setProperty("clip-path", `inset(0 0 0 ${range.value}%)`);
  const said = range.closest("label")?.querySelector("output");
  if (said) said.textContent = +(+range.value).toFixed(3);
});

document.addEventListener("submit", (event) => {
  if (!event.target.matches("[data-once]")) return;
  for (const field of event.target.querySelectorAll("[data-optional]")) field.disabled = field.value === ""; // left out, not empty
  for (const file of event.target.querySelectorAll("input[type=file]")) file.disabled = !file.files.length;
  setTimeout(() => event.target.querySelectorAll("button").forEach((button) => (button.disabled = true)));
});

document.querySelector("nav [aria-current]")?.scrollIntoView({ inline: "center", block: "nearest" });

addEventListener("pageshow", () => document.querySelectorAll("form [disabled]").forEach((field) => (field.disabled = false)));
