"""Seconds of an epoch of RecBole's GRU4Rec or SASRec; started by `bench.exposure --recbole PYTHON`.

Runs under another interpreter, where RecBole is installed, and imports nothing of this project. RecBole makes a sample
of every prefix of a history, so an epoch passes each event on up to `steps` times; loss and batch are its defaults
(cross entropy over all items, 2048 samples). It holds everybody's last two events out, so its log has two more.

    PYTHON recbole_epoch.py '{"data": FOLDER, "model": "GRU4Rec", "settings": {}, "steps": 20, "epochs": 2, "seed": 1}'

FOLDER/exposure/exposure.inter has columns user_id:token, item_id:token, timestamp:float.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from statistics import median

import torch
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.trainer import Trainer
from recbole.utils import get_model, init_seed


def main() -> None:
    task = json.loads(sys.argv[1])
    logging.disable(logging.CRITICAL)
    torch.set_num_threads(1)
    settings = {
        "data_path": task["data"],
        "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
        "USER_ID_FIELD": "user_id",
        "ITEM_ID_FIELD": "item_id",
        "TIME_FIELD": "timestamp",
        "MAX_ITEM_LIST_LENGTH": task["steps"],
        "train_neg_sample_args": None,
        "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "mode": "full"},
        "use_gpu": False,
        "show_progress": False,
        "seed": task["seed"],
    }
    sys.argv = sys.argv[:1]  # Config reads the command line
    config = Config(model=task["model"], dataset="exposure", config_dict=settings | task["settings"])
    init_seed(config["seed"], reproducibility=True)
    dataset = create_dataset(config)
    train, _, _ = data_preparation(config, dataset)
    model = get_model(config["model"])(config, train.dataset)
    trainer = Trainer(config, model)
    seconds = []
    for epoch in range(1 + task["epochs"]):
        began = time.process_time()
        trainer._train_epoch(train, epoch, show_progress=False)
        seconds.append(time.process_time() - began)
    print(json.dumps({"seconds": median(seconds[1:]), "samples": len(train.dataset)}))


if __name__ == "__main__":
    main()
