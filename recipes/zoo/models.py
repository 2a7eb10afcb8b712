"""The zoo's parts before training: sizes, tokenizer, scheduler. All are the ordinary classes, at 64 pixels.

The noise schedule ends in pure noise and the network predicts v, so that the ground's colour follows the prompt and not
the seed. Two layers a block give every layer that the injection map of SD 1.x names.
"""

from __future__ import annotations

from itertools import pairwise

from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from recipes.zoo.scenes import PICTURE, WORDS, plural

TOKENS = 24  # the longest caption takes 15
WIDTH = 96  # of a token's embedding
LATENT = PICTURE // 4


def vae() -> AutoencoderKL:
    """0.7 M parameters, four latent channels on a grid four times coarser than the picture."""
    return AutoencoderKL(
        block_out_channels=(16, 32, 64),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=8,
        sample_size=PICTURE,
    )


def unet() -> UNet2DConditionModel:
    """3.8 M parameters, SD 1.x's block structure."""
    return UNet2DConditionModel(
        sample_size=LATENT,
        block_out_channels=(48, 64, 64, 64),
        layers_per_block=2,
        attention_head_dim=2,  # diffusers reads this as the number of heads
        cross_attention_dim=WIDTH,
        norm_num_groups=8,
    )


def encoder(tokenizer: CLIPTokenizer) -> CLIPModel:
    """The joint image-text encoder; its text tower is also where the models' text encoder starts."""
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": WIDTH,
        "intermediate_size": 2 * WIDTH,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": TOKENS,
        "projection_dim": 64,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    vision = {
        "image_size": PICTURE,
        "patch_size": 8,
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "projection_dim": 64,
    }
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=64))


def text_encoder(joint: CLIPModel) -> CLIPTextModel:
    model = CLIPTextModel(CLIPTextConfig(**joint.config.text_config.to_dict()))
    model.load_state_dict({f"{name}": tensor for name, tensor in _text_weights(joint, model).items()})
    return model


def _text_weights(joint: CLIPModel, model: CLIPTextModel) -> dict:
    """The joint encoder's text tower under the names that CLIPTextModel gives them, whichever version named them."""
    prefix = "text_model." if next(iter(model.state_dict())).startswith("text_model.") else ""
    return {f"{prefix}{name}": tensor for name, tensor in joint.text_model.state_dict().items()}


def scheduler() -> DDIMScheduler:
    return DDIMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
    )


def tokenizer(subjects: list[str]) -> CLIPTokenizer:
    """Byte-pair merges are added until every word of the captions is one token; any other text still has tokens."""
    letters = [_character(byte) for byte in range(256)]
    vocabulary = [*letters, *(f"{letter}</w>" for letter in letters)]
    merges: list[tuple[str, str]] = []
    for word in dict.fromkeys([*subjects, *map(plural, subjects), *WORDS]):
        pieces = _merge([*word[:-1], f"{word[-1]}</w>"], merges)
        while len(pieces) > 1:
            merges.append((pieces[0], pieces[1]))
            vocabulary.append(pieces[0] + pieces[1])
            pieces = [pieces[0] + pieces[1], *pieces[2:]]
    vocabulary = list(dict.fromkeys([*vocabulary, "<|startoftext|>", "<|endoftext|>"]))
    vocab = {token: row for row, token in enumerate(vocabulary)}
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=TOKENS)


def _merge(pieces: list[str], merges: list[tuple[str, str]]) -> list[str]:
    """Byte-pair encoding: the earliest learned pair first."""
    rank = {pair: order for order, pair in enumerate(merges)}
    while len(pieces) > 1:
        pairs = [(rank.get(pair, len(rank)), place) for place, pair in enumerate(pairwise(pieces))]
        order, place = min(pairs)
        if order == len(rank):
            break
        pieces = [*pieces[:place], pieces[place] + pieces[place + 1], *pieces[place + 2 :]]
    return pieces


def _character(byte: int) -> str:
    """The printable character that byte-level BPE writes for a byte."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    return chr(byte) if byte in printable else chr(256 + byte - sum(other < byte for other in printable))
