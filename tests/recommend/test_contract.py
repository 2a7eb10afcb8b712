"""Every recommender of the library keeps the one contract."""

from tastemaker.recommend import CML, NCF, Factors, ItemAE, ItemKNN, LightGCN, MultVAE, Popular, Recommender, UserKNN
from tastemaker.testing import RecommenderContract


class TestPopular(RecommenderContract):
    personal = False

    def make(self) -> Recommender:
        return Popular()


class TestItemKNN(RecommenderContract):
    def make(self) -> Recommender:
        return ItemKNN(neighbours=10, shrink=1.0)


class TestUserKNN(RecommenderContract):
    def make(self) -> Recommender:
        return UserKNN(neighbours=10, shrink=1.0)


class TestFactors(RecommenderContract):
    def make(self) -> Recommender:
        return Factors(rank=4, reg=0.1)


class TestFactorsByGroup(RecommenderContract):
    def make(self) -> Recommender:
        return Factors(rank=4, reg=0.1, like=0.4, dislike=0.4, unseen=0.2, per="group")


class TestItemAE(RecommenderContract):
    def make(self) -> Recommender:
        return ItemAE(epochs=60, learning_rate=0.01, hidden=12, latent=6, device="cpu")


class TestMultVAE(RecommenderContract):
    def make(self) -> Recommender:
        return MultVAE(epochs=60, learning_rate=0.01, hidden=12, latent=4, device="cpu")


class TestNCF(RecommenderContract):
    def make(self) -> Recommender:
        return NCF(epochs=40, learning_rate=0.02, batch=64, rank=6, width=6, hidden=8, device="cpu")


class TestCML(RecommenderContract):
    def make(self) -> Recommender:
        return CML(epochs=40, learning_rate=0.02, batch=64, rank=6, negatives=5, device="cpu")


class TestLightGCN(RecommenderContract):
    def make(self) -> Recommender:
        return LightGCN(epochs=40, learning_rate=0.02, batch=64, rank=6, layers=2, device="cpu")
