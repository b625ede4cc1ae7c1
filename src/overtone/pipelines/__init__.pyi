from .card import Card as Card
from .card import CardScore as CardScore
from .edit import ImageStart as ImageStart
from .evaluations import Evaluations as Evaluations
from .evaluations import counting as counting
from .evaluations import evaluations_of as evaluations_of
from .evaluations import expected_evaluations as expected_evaluations
from .evaluations import request_within as request_within
from .load import load_pipeline as load_pipeline
from .merge import merged as merged
from .pipeline import Pipeline as Pipeline
from .receipt import Receipt as Receipt
from .receipt import Receipts as Receipts
from .receipt_files import read_receipt as read_receipt
from .receipt_files import save_png as save_png
from .request import Request as Request
from .starts import NoiseStart as NoiseStart
from .starts import RelayStart as RelayStart
from .starts import Start as Start
from .systems import DiffiTPipeline as DiffiTPipeline
from .systems import DSNOPipeline as DSNOPipeline
from .systems import LatentDiffiTPipeline as LatentDiffiTPipeline
from .systems import MEMEPipeline as MEMEPipeline
from .systems import RelayPipeline as RelayPipeline

KINDS: dict[str, dict[str, str]]
