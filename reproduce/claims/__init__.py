"""The paper's claims, each with what would count against it; see `records`.

One module for each section of the paper; `evidence` says where the numbers come from.
"""

from claims.background import BACKGROUND
from claims.contrastive import CONTRASTIVE
from claims.discussion import DISCUSSION
from claims.experiments import EXPERIMENTS
from claims.method import METHOD

SECTIONS = {
    "Abstract": "",
    "Sec. 1": "Introduction",
    "Sec. 2": "Background",
    "Sec. 3": "Deep Energy Estimator Network",
    "Sec. 4": "Experiments",
    "Sec. 5": "Discussion",
}
CLAIMS = BACKGROUND + METHOD + EXPERIMENTS + CONTRASTIVE + DISCUSSION
