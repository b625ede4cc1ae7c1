"""The functions of `overtone.runs` under their former name."""

from overtone.runs import checkpoints_of as checkpoints_of
from overtone.runs import find_checkpoint as find_checkpoint
from overtone.runs import is_run as is_run
from overtone.runs import read_log as read_log
