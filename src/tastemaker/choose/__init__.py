"""Which model for this prompt and this person: retrieval of models, ranking of pictures, votes into ratings."""
