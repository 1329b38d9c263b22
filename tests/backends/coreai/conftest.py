from importlib.util import find_spec

import torch

collect_ignore_glob = [] if find_spec("coreai_torch") else ["test_*.py"]

torch.set_num_threads(1)
