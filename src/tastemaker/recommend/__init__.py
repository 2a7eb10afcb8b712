"""Recommenders: one contract, several methods."""

from collections.abc import Mapping
from typing import Any

from tastemaker.recommend.autoencoder import ItemAE, MultVAE
from tastemaker.recommend.contract import Recommender
from tastemaker.recommend.factors import Factors
from tastemaker.recommend.graph import LightGCN
from tastemaker.recommend.knn import ItemKNN, UserKNN
from tastemaker.recommend.metric import CML
from tastemaker.recommend.neural import NCF
from tastemaker.recommend.popular import Popular

#: The library's own recommenders by the tag their saved files carry, for the command line.
MODELS: Mapping[str, type[Recommender[Any]]] = {
    model.kind: model for model in (Factors, ItemKNN, UserKNN, ItemAE, MultVAE, NCF, CML, LightGCN, Popular)
}

__all__ = [
    "CML", "MODELS", "NCF", "Factors", "ItemAE", "ItemKNN", "LightGCN", "MultVAE", "Popular", "Recommender", "UserKNN",
]  # fmt: skip
