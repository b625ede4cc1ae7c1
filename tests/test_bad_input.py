"""What happens when a user gets something wrong: the command, and what it answers.

Every case ends with a message on one or two lines, no traceback, a non-zero status, and nothing
left behind. Folders named below are made by `place`, each with the one fault that its name tells.
"""

import json
import pickle
import shutil
import zipfile
from io import BytesIO

import numpy as np
import pytest
from datasets import Dataset, Features, Value
from datasets import Image as ImageFeature
from PIL import Image

from helpers import TINY_DIFFIT, TINY_SONG, TINY_TRANSFORMER, tiny_vae
from overtone.cli.app import main
from overtone.denoisers import ADM_DIFFUSION
from overtone.networks import (
    DiffiTConfig,
    DiffiTTransformer,
    DiffiTUNet,
    SongUNet,
    temporalize,
)
from overtone.pipelines import (
    DiffiTPipeline,
    DSNOPipeline,
    LatentDiffiTPipeline,
    MEMEPipeline,
    Pipeline,
    RelayPipeline,
)
from overtone.processes import RelayProcess
from overtone.samplers import AncestralSampler, Sampler

OF = "dsno-digits --teacher {place}/model --guidance-scale 1 --num-times 2 --count 16 --held-out 8"
COLLECT, DISTIL = f"distill collect {OF}", f"distill train {OF}"

CASES = """
A command that does not exist
    overtone trian diffit-digits
    unknown command 'trian': did you mean 'train'?
A recipe that does not exist
    overtone train diffit-digit
    unknown recipe 'diffit-digit': did you mean 'diffit-digits'?
An option that does not exist
    overtone train diffit-digits --network.windw 4
    Unrecognized options: --network.windw
A tracker that does not exist
    overtone train diffit-digits --trackers tensorbord
    invalid choice 'tensorbord'
A number where none can be
    overtone train diffit-digits --batch-size 0
    batch_size must be above 0, not 0
A learning rate below zero
    overtone train diffit-digits --lr -1
    lr must be above 0, not -1.0
A decay rate above one
    overtone train diffit-digits --betas 0.9 1.5
    betas must be in [0, 1), not (0.9, 1.5)
A micro-batch larger than the batch
    overtone train diffit-digits --batch-size 64 --micro-batch 100
    micro_batch 100 is not in [1, 64]
A probability above one
    overtone train diffit-digits --label-dropout 1.5
    label_dropout must be in [0, 1], not 1.5
Windows that do not divide the image
    overtone train diffit-digits --network.window 3
    level 0 is 8 pixels wide, which does not divide into windows of 3
Heads that do not divide the width
    overtone train diffit-digits --network.head-channels 7
    width 64 does not divide into heads of 7 channels
More levels than the image can be halved
    overtone train diffit-digits --network.widths 32 32 32 32 32 --network.num-cells 1 1 1 1 1
    resolution 8 can't be halved 4 times
Levels without cells
    overtone train diffit-digits --network.widths 32 32 --network.num-cells 1
    2 widths, but cells for 1 levels
A ViT with a U's decoder
    overtone train diffit-digits --network.encoder vit
    encoder vit has one resolution and no skips for a U: it needs decoder aggregation
Classes for a network that nothing enters
    overtone train diffit-digits --network.time-in none
    time_in none leaves no way in for classes
Flipped twice
    overtone train diffit-fashion-mnist --augmentation 0.1
    augmentation flips images already: leave mirror out
A recipe file that does not exist
    overtone train {place}/none.json
    none.json does not exist
A recipe file with a misspelt key
    overtone train {place}/misspelt.json
    unknown key 'trainin': did you mean 'training'?
A recipe file with a word for a number
    overtone train {place}/word.json
    key 'training.lr': Input should be a valid number, got 'fast'
A recipe file cut short
    overtone train {place}/short.json
    short.json is not valid JSON
A recipe without data
    overtone train diffit-cifar10
    this recipe has no data of its own: pass --data FOLDER, a zip, or hf:OWNER/NAME
Data that does not exist
    overtone train diffit-digits --data builtin:digts
    unknown data set 'builtin:digts': did you mean 'builtin:digits'?
A folder that does not exist
    overtone train diffit-cifar10 --data {place}/nowhere
    nowhere' does not exist: no folder and no zip of images is there
An empty folder
    overtone train diffit-cifar10 --data {place}/empty
    empty holds no images
A corrupt image
    overtone train diffit-cifar10 --data {place}/corrupt
    b.jpg can't be read (image file is truncated
An image that is too small
    overtone train diffit-cifar10 --data {place}/small
    a.png is 16 x 16, smaller than the resolution 32. Mend or remove them, or pass
Images of unknown range
    overtone train diffit-cifar10 --data {place}/float
    a.tiff can't be read (floating-point pixels, whose range is not known
Images beside the classes
    overtone train diffit-cifar10 --data {place}/stray
    has images in sub-folders (classes) and beside them (stray.png)
Splits of other classes
    overtone train diffit-cifar10 --data {place}/splits
    the classes of the test split (dog) are not those of the training split (cat)
Classes asked of data that has none
    overtone train diffit-cifar10 --data {place}/plain --class-conditional
    plain has no classes: sort its images into sub-folders, or pass --no-class-conditional
A number of classes unlike the data's
    overtone train diffit-digits --network.num-classes 7
    --network.num-classes is 7, but builtin:digits has 10 classes
A resolution that built-in data does not have
    overtone train diffit-digits --network.resolution 16
    builtin:digits is 8 px and grey, not 16 px with 1 channels
A zip that is none
    overtone train diffit-cifar10 --data {place}/none.zip
    none.zip can't be read as a zip
A zip whose labels leave one out
    overtone train diffit-cifar10 --data {place}/unlabelled.zip
    dataset.json has no label for b.png: add it, or remove the image
A zip whose labels are no classes
    overtone train diffit-cifar10 --data {place}/vectors.zip
    the label of a.png is [0.5, 0.5], not a class number
A data set that the Hub does not know, or no network
    overtone train diffit-cifar10 --data hf:nobody/nothing
    hf:nobody/nothing can't be opened
A misspelt option of a data set
    overtone train diffit-cifar10 --data hf:{place}/good.parquet?lable=kind
    unknown option of hf:{place}/good.parquet?lable=kind 'lable': did you mean 'label'?
A data set without images
    overtone train diffit-cifar10 --data hf:{place}/text.parquet
    has no column of images, only text
A column that does not exist
    overtone train diffit-cifar10 --data hf:{place}/good.parquet?image=imgs
    unknown column of images in hf:{place}/good.parquet?image=imgs 'imgs': did you mean 'img'?
A data set that points out of its folder
    overtone train diffit-cifar10 --data hf:{place}/pointing
    row 0 can't be read (it points to {place}/plain/a.png, outside the data set)
A run started again with other settings
    overtone train diffit-digits --batch-size 32 --out {place}/run
    run was made with other settings (training.batch_size: 128 -> 32)
A run in a folder that holds something else
    overtone train diffit-digits --out {place}/plain
    plain is not empty and not a run: choose another --out
A model that does not exist
    overtone sample {place}/nothing
    nothing does not exist
A folder that is no model
    overtone sample {place}/plain
    plain is not a saved pipeline: it has no pipeline.json
A damaged index
    overtone sample {place}/damaged
    pipeline.json is not valid JSON
Weights cut short
    overtone sample {place}/cut
    model.safetensors is damaged or was cut short
Weights of another network
    overtone sample {place}/swapped
    the weights are not those of this DiffiTUNet
A misspelt key in a model's settings
    overtone sample {place}/key
    unknown key 'windows': did you mean 'window'?
A network that does not exist
    overtone sample {place}/network
    unknown network 'DiffiTNet': did you mean 'DiffiTUNet'?
A class that does not exist
    overtone sample {place}/model --classes ca
    unknown class 'ca': did you mean 'cat'?
A class number that does not exist
    overtone sample {place}/model --classes 3
    unknown class '3'
Classes of a model without
    overtone sample {place}/unconditional --classes 3
    class labels were given, but the model is unconditional
Guidance of a model without classes
    overtone sample {place}/unconditional --guidance-scale 2
    guidance needs a class-conditional model or a weaker model to guide with
An interval the wrong way round
    overtone sample {place}/model --guidance-scale 2 --guidance-interval 2 0.1
    guidance_interval is (lowest, highest) sigma, not (2.0, 0.1)
Samples among other files
    overtone sample {place}/model --seeds 0-3 --out {place}/plain
    plain holds other files (a.png): choose another --out
A data set file that does not exist
    overtone train diffit-cifar10 --data hf:{place}/nothere.parquet
    nothere.parquet does not exist
A guide of other classes
    overtone sample {place}/model --guide {place}/other --guidance-scale 2
    the guide has 5 classes, the model 3
Seeds that repeat
    overtone sample {place}/model --seeds 0-9,5
    --seeds 0-9,5 names a seed twice
Seeds that are none
    overtone sample {place}/model --seeds first
    --seeds is like 0-63 or 3,5,8-12, not 'first'
A seed too large
    overtone sample {place}/model --seeds 4294967296
    seeds are in 0..4294967295
No steps
    overtone sample {place}/model --steps 0
    a sampler takes at least one step
No images at a time
    overtone sample {place}/model --batch-size 0
    --batch-size is at least 1, not 0
A picture of another format
    overtone sample {place}/model --out grid.jpg
    --out is a .png file or a directory, not grid.jpg
A grid without columns
    overtone sample {place}/model --columns 0
    --columns is at least 1, not 0
A checkpoint that does not exist
    overtone sample {place}/model --checkpoint newest
    --checkpoint is last or best, not 'newest'
An evaluation without data
    overtone evaluate {place}/model
    pass --data: the model was trained on something that was not saved with it
An evaluation of images at no size
    overtone evaluate {place}/plain --data builtin:digits
    images need --data and --resolution beside it
An evaluation on other classes
    overtone evaluate {place}/model --data builtin:digits
    the model has 3 classes and builtin:digits has 10
An evaluation without classes to judge by
    overtone evaluate {place}/plain --data {place}/plain --resolution 8
    plain has no classes, and the metrics are computed on a classifier of the data
Inception's weights that are none
    overtone evaluate {place}/plain --data {place}/plain --resolution 8 --extractor inception
    Inception
Nothing to tell of
    overtone info {place}/plain
    it is neither a run, nor a saved pipeline, nor latents, nor trajectories, nor a network
A VAE whose latents have another number of channels
    overtone train diffit-latent-glyphs --vae {place}/vae3
    its latents have 3 channels, the network 4 (--network.channels)
A VAE that makes images of another size
    overtone sample {place}/latent --vae {place}/vae
    the model is of images of 64 px, the VAE would make 8 px latents into 16 px
A VAE without a scaling factor
    overtone train diffit-latent-glyphs --vae {place}/unscaled
    config.json has no scaling_factor: pass the one that its latents are diffused at
A VAE that is none
    overtone train diffit-latent-glyphs --vae {place}/model/network
    holds a DiffiTUNet, not an AutoencoderKL or VQModel
A VAE that does not exist
    overtone train diffit-latent-glyphs --vae {place}/nothing
    nothing does not exist
A VAE for pixels
    overtone sample {place}/model --vae {place}/vae
    model makes pixels, which no VAE has to decode
Latents and nothing to decode them
    overtone sample {place}/latent
    no VAE was saved with it to decode them: set pipe.vae to one, or pass --vae
A class outside a latent model's
    overtone sample {place}/latent --classes 7
    unknown class '7': known: 0, 1, 2
Latents that are incomplete
    overtone train diffit-latent-glyphs --data {place}/incomplete --vae {place}/vae
    00000.safetensors, of 1 files, is missing
Latents under another VAE
    overtone train diffit-latent-glyphs --data {place}/kept --vae {place}/another
    kept was encoded otherwise: the VAE is
Latents of another resolution
    overtone train diffit-latent-glyphs --network.resolution 4 --data {place}/kept --vae {place}/vae
    encoded otherwise: the resolution of the images is 16 there, 8 here
Latents and no VAE
    overtone train diffit-digits --data {place}/kept
    kept holds latents: pass --vae
Latents encoded over other ones
    overtone data encode {place}/plain --vae {place}/vae --resolution 32 --out {place}/kept
    kept holds other latents (
Endless images to encode
    overtone data encode builtin:glyphs --vae {place}/vae --resolution 16 --out latents
    builtin:glyphs never ends: say how many of its images to encode (--images
Augmentation of latents
    overtone train diffit-latent-glyphs --vae {place}/vae --augmentation 0.1
    augmentation is of images, not of their latents
Patches that do not divide the latents
    overtone train diffit-latent-glyphs --vae {place}/vae --network.patch 3
    resolution 4 does not divide into patches of 3
A checkpoint of another architecture
    overtone convert diffit-latent {place}/song/network/model.safetensors out
    these are not the weights of a latent DiffiT
A checkpoint that could run code
    overtone convert diffit-latent {place}/weights.pt out
    weights.pt is no .safetensors file, which is what the latent DiffiT was published as
A checkpoint that does not exist
    overtone convert diffit-latent {place}/none.safetensors out
    none.safetensors does not exist
A pickle that runs code
    overtone convert edm {place}/evil.pkl out
    evil.pkl: calling builtins.eval is refused
A pickle cut short
    overtone convert edm {place}/short.pkl out
    short.pkl is damaged, or no checkpoint
A pickle without a network
    overtone convert edm {place}/list.pkl out
    list.pkl holds no network under 'ema'
A relay of one stage
    overtone convert rdm {place}/evil.pkl out
    overtone convert rdm FIRST SECOND OUT takes 3 paths, not 2
An option of another conversion
    overtone convert edm {place}/evil.pkl out --vae {place}/vae
    --vae is for diffit-latent, not for edm
A scaling factor for what has no latents
    overtone convert edm {place}/evil.pkl out --scaling-factor 0.2
    --scaling-factor is for diffit-latent, not for edm
A first stage for a model that begins with noise
    overtone sample {place}/model --first {place}/plain
    model begins with noise, not with images
A second stage without a first
    overtone sample {place}/relay
    goes on from images: set pipe.first to a pipeline or to images, or pass --first
Stages of the same size
    overtone sample {place}/relay --first {place}/model
    images of 8 x 8 px, 2 times enlarged, are 16 x 16 px, and the second stage makes 8 x 8 px
Stages of other classes
    overtone sample {place}/relay --first {place}/other
    the stages do not meet: the first has 5 classes, the second 3
Labels for an unconditional stage
    overtone sample {place}/unconditional --classes 1
    class labels were given, but the model is unconditional
A finish that does not exist
    overtone sample {place}/model --finish relay-imagnet
    unknown finish 'relay-imagnet': did you mean 'relay-imagenet'?
A first stage that was not trained
    overtone train relay-glyphs
    the first stage is not there: the recipe relay-glyphs-16 makes runs/relay-glyphs-16
A first stage where there is no relay
    overtone train diffit-digits --first {place}/model
    a first stage is what a relay goes on from
Patches that do not divide the image
    overtone train relay-glyphs --first= --process.patch 5
    64 px do not divide into patches of 5 px
A truncation beyond the schedule
    overtone train relay-glyphs --first= --sampler.sigma-max 5
    and the process ends at 1.77: choose a sigma_max
A truncation below the grid
    overtone train relay-glyphs --first= --sampler.truncation-sigma 0.001
    truncation_sigma 0.001 leaves no level of the grid
A blur that has another time than training
    overtone train relay-glyphs --first= --schedule.prob-length 0.5
    schedule and process.schedule differ
Boundaries between experts that overlap
    overtone train meme-digits --experts.boundaries 2 1 30
    boundaries between experts rise from above 0, the expert of the clean image first, not 2, 1, 30
Probabilities for other experts than there are
    overtone train meme-digits --experts.probabilities 1 1
    probabilities has 2 entries for 4 experts
Heads that do not divide the width
    overtone train meme-digits --network.head-channels 48
    width 64 does not divide into two heads of 48 channels or more
Shapes of another network
    overtone train meme-digits --network.inception-heads 4 4
    the published shapes are an IUNet's, and give its inception_heads
A branch without channels
    overtone train meme-digits --experts.shapes same --network.inception-heads 16 4
    network settings of expert 1: 16 of 16 heads leave 64 of 64 channels to attention and 0 to
An interval without training
    overtone train meme-digits --experts.boundaries 1 1e8 1e9
    expert 3 has nothing to learn: no noise level of training lies in its interval
An expert that is none
    overtone train meme-digits --expert 5
    --expert is 1 to 4, not 5
An expert of a recipe without
    overtone train diffit-digits --expert 1
    --expert: this recipe has one network, and no experts
Experts that are not trained
    overtone merge {place}/experts
    experts lacks expert 2: overtone train ... --expert 2
Experts that are not merged
    overtone sample {place}/experts
    holds experts, not merged yet: overtone merge
Models without boundaries
    overtone merge {place}/model {place}/model --out out
    2 models need 1 --boundaries, not 0
Experts of different classes
    overtone merge {place}/model {place}/other --boundaries 1 --out out
    experts 1 and 2 do not belong together: their classes differ
Experts of different sizes
    overtone merge {place}/unconditional {place}/larger --boundaries 1 --out out
    experts 1 and 2 do not belong together: their image sizes differ
A budget for other experts than there are
    overtone merge {place}/model {place}/model --boundaries 1 --steps 3 --out out
    --steps: 2 intervals take one step or more each
An expert that is missing
    overtone sample {place}/lacking
    lacking/network/2 does not exist
Boundaries of a saved model that leave an expert nothing
    overtone sample {place}/crossed
    boundaries between experts rise
Residence of a model that is no expert
    overtone sample {place}/model --resident 1
    resident is for models of experts, and this one has one network
Residence of more experts than there are
    overtone sample {place}/meme --resident 3
    resident is in [1, 2], not 3
A spectrum of no step
    overtone analyze spectrum {place}/model --steps 0
    --steps is at least 1, not 0
A noise level of zero
    overtone analyze snr builtin:digits --resolution 8 --channels 1 --sigma 0
    --sigma must be above 0
A scheduler that does not exist
    overtone sample {place}/latent --vae {place}/vae8 --scheduler DDIMSchedular
    unknown scheduler 'DDIMSchedular': did you mean 'DDIMScheduler'?
A scheduler of discrete steps for a model without
    overtone sample {place}/model --scheduler DDIMScheduler
    --scheduler is for models of discrete steps
Checkpointing where there are no blocks
    overtone train diffit-digits --gradient-checkpointing
    --gradient-checkpointing is for transformers, not a DiffiTUNet
A figure over one scale
    overtone analyze guidance {place}/model --scales 2
    --scales takes two different scales or more
A figure of something else
    overtone analyze guidence {place}/model
    unknown subcommand of analyze 'guidence': did you mean 'guidance'?
A contact sheet of another format
    overtone data inspect builtin:digits --out sheet.gif
    --out is a .png file, not sheet.gif
A subcommand of distill that does not exist
    overtone distill colect dsno-digits
    unknown subcommand of distill 'colect': did you mean 'collect'?
A recipe that distils nothing
    overtone distill collect diffit-digits
    diffit-digits distils nothing: overtone train diffit-digits
A recipe of a distillation, trained
    overtone train dsno-digits
    dsno-digits distils a model: overtone distill collect dsno-digits, then
A teacher that is not there
    overtone distill collect dsno-digits
    the teacher is not there: the recipe diffit-digits makes runs/diffit-digits
A teacher that is nowhere
    overtone distill collect dsno-digits --teacher {place}/nowhere
    {place}/nowhere does not exist
A teacher that draws noise on its way
    overtone distill collect dsno-digits --teacher {place}/latent --guidance-scale 1
    draws noise at each step (AncestralSampler): an operator learns a deterministic one (--solver
A solver that does not exist
    overtone distill collect dsno-digits --solver rk45
    invalid choice 'rk45'
Times that do not fall
    overtone distill collect dsno-digits --times 0.2 0.5 0
    times fall from below 1 to 0, and are not (0.2, 0.5, 0.0)
More times than steps
    overtone {collect} --steps 3 --num-times 4
    3 steps of the solver can't give 4 times: take more steps, or fewer times
No modes
    overtone distill train dsno-digits --modes 0
    modes must be at least 1, not 0
A part that is none
    overtone {collect} --part 3/2
    --part is K/N with K in 1..N, not 3/2
A part that is no fraction
    overtone distill collect dsno-digits --part half
    --part is like 1/8, not 'half'
Too little disk
    overtone {collect} --count 4000000000
    the trajectories need 1,600.00 GB in runs/dsno-digits-trajectories, and
A first stage for a model that begins with noise
    overtone distill collect dsno-digits --teacher {place}/model --first {place}/model
    begins with noise, not with images
Trajectories that were not collected
    overtone distill train dsno-digits --teacher {place}/model
    there are no trajectories in runs/dsno-digits-trajectories: overtone distill collect dsno-digits
A directory without trajectories
    overtone {distil} --data {place}/plain
    {place}/plain holds no trajectories: it has no trajectories.json
Trajectories of another teacher
    overtone {distil} --data {place}/solved --teacher {place}/song
    {place}/solved holds other trajectories than the recipe asks for
Trajectories at other times
    overtone {distil} --data {place}/solved --num-times 1
    holds other trajectories than the recipe asks for (sigmas: [80.0,
Trajectories that are damaged
    overtone {distil} --data {place}/unsolved
    {place}/unsolved/00000.safetensors, of 1 files, is damaged
Damaged trajectories, collected again
    overtone {collect} --out {place}/unsolved
    and with --repair what is damaged
Other trajectories collected into a directory
    overtone {collect} --guidance-scale 2 --out {place}/solved
    holds other trajectories (
Fewer trajectories than there are
    overtone {collect} --count 8 --out {place}/solved
    holds 16 trajectories already: --count can only grow
LPIPS without its package
    overtone {distil} --data {place}/solved --distance lpips
    pip install -c constraints.txt '.[lpips]'
An operator asked for steps
    overtone sample {place}/operator --steps 4
    an operator makes images in one evaluation: it has no steps to choose
An operator asked for guidance
    overtone sample {place}/operator --guidance-scale 2
    an operator has the guidance that its trajectories were made with
An operator as a teacher
    overtone distill collect dsno-digits --teacher {place}/operator
    is an operator itself: a teacher solves its way step by step
An operator's trajectory without its teacher
    overtone analyze trajectory {place}/operator
    is an operator: name the model that it was distilled from
The teacher of a model that is no operator
    overtone analyze trajectory {place}/model --teacher {place}/model
    --teacher: {place}/model is no operator, and has none
One time for a spectrum
    overtone analyze trajectory {place}/model --times 1
    --times is at least 2, not 1
"""


def cases():
    lines = [line for line in CASES.splitlines() if line]
    for at in range(0, len(lines), 3):
        what, command, answer = (line.strip() for line in lines[at : at + 3])
        yield pytest.param(command, answer, id=what)


def picture(folder, name, size=32, mode="RGB"):
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(folder / name)


def zipped(file, labels):
    content = BytesIO()
    Image.new("RGB", (32, 32)).save(content, "png")
    with zipfile.ZipFile(file, "w") as archive:
        for name in ("a.png", "b.png"):
            archive.writestr(name, content.getvalue())
        archive.writestr("dataset.json", json.dumps({"labels": labels}))


def edited(folder, file, change):
    """A copy of the model with one JSON file changed."""
    shutil.copytree(folder.parent / "model", folder)
    content = json.loads((folder / file).read_text())
    change(content)
    (folder / file).write_text(json.dumps(content))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    root = tmp_path_factory.mktemp("place")
    (root / "empty").mkdir()
    picture(root / "plain", "a.png")
    picture(root / "small", "a.png", 16)
    picture(root / "corrupt", "a.png")
    picture(root / "corrupt", "b.jpg")
    whole = (root / "corrupt" / "b.jpg").read_bytes()
    (root / "corrupt" / "b.jpg").write_bytes(whole[: len(whole) // 2])
    (root / "float").mkdir()
    Image.fromarray(np.zeros((32, 32), np.float32)).save(root / "float" / "a.tiff")
    picture(root / "stray", "cat/a.png")
    picture(root / "stray", "stray.png")
    picture(root / "splits", "train/cat/a.png")
    picture(root / "splits", "test/dog/a.png")
    (root / "none.zip").write_bytes(b"not a zip")
    zipped(root / "unlabelled.zip", [["a.png", 0]])
    zipped(root / "vectors.zip", [["a.png", [0.5, 0.5]], ["b.png", 1]])

    features = Features({"img": ImageFeature(), "id": Value("int32")})
    good = {"img": [Image.new("RGB", (32, 32))], "id": [0]}
    Dataset.from_dict(good, features=features).to_parquet(root / "good.parquet")
    Dataset.from_dict({"text": ["a"]}).to_parquet(root / "text.parquet")
    (root / "pointing").mkdir()
    away = {"img": [{"bytes": None, "path": str(root / "plain" / "a.png")}], "id": [0]}
    Dataset.from_dict(away, features=features).to_parquet(root / "pointing" / "train.parquet")

    recipe = {"about": "", "network": {"kind": "DiffiTUNet"}}
    (root / "misspelt.json").write_text(json.dumps(recipe | {"trainin": {}}))
    (root / "word.json").write_text(json.dumps(recipe | {"training": {"lr": "fast"}}))
    (root / "short.json").write_text(json.dumps(recipe)[:20])

    sampler = Sampler(num_steps=2)
    network = DiffiTUNet(TINY_DIFFIT)
    DiffiTPipeline(network, sampler, class_names=("cat", "dog", "emu")).save_pretrained(
        root / "model"
    )
    small = {"resolution": 8, "channels": 1, "widths": (16,), "num_cells": (1,), "head_channels": 8}
    DiffiTPipeline(DiffiTUNet(DiffiTConfig(**small)), sampler).save_pretrained(
        root / "unconditional"
    )
    five = DiffiTUNet(DiffiTConfig(**small, num_classes=5))
    DiffiTPipeline(five, sampler).save_pretrained(root / "other")
    edited(root / "key", "network/config.json", lambda c: c.update(windows=4))
    edited(root / "network", "pipeline.json", lambda c: c.update(network="DiffiTNet"))
    shutil.copytree(root / "model", root / "damaged")
    (root / "damaged" / "pipeline.json").write_text('{"pipeline": "Dif')
    shutil.copytree(root / "model", root / "cut")
    weights = root / "cut" / "network" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    Pipeline(SongUNet(TINY_SONG), sampler).save_pretrained(root / "song")
    low = Sampler(num_steps=4, sigma_min=0.01, truncation_sigma=0.9)
    relay = RelayPipeline(DiffiTUNet(TINY_DIFFIT), low, process=RelayProcess(patch=2))
    relay.save_pretrained(root / "relay")
    pair = [DiffiTPipeline(DiffiTUNet(TINY_DIFFIT), sampler) for _ in range(2)]
    MEMEPipeline.merged(pair, (1.0,)).save_pretrained(root / "meme")
    shutil.copytree(root / "meme", root / "lacking")
    shutil.rmtree(root / "lacking" / "network" / "2")
    shutil.copytree(root / "meme", root / "crossed")
    config = json.loads((root / "crossed" / "network" / "config.json").read_text())
    (root / "crossed" / "network" / "config.json").write_text(
        json.dumps(config | {"boundaries": [-1.0]})
    )
    (root / "experts" / "expert-1" / "checkpoints" / "000000064").mkdir(parents=True)
    (root / "experts" / "run.json").write_text(json.dumps({"experts": 2, "boundaries": [1.0]}))
    large = DiffiTUNet(DiffiTConfig(**small | {"resolution": 16}))
    DiffiTPipeline(large, sampler).save_pretrained(root / "larger")
    (root / "evil.pkl").write_bytes(b"cbuiltins\neval\n(S'1 / 0'\ntR.")
    (root / "list.pkl").write_bytes(pickle.dumps([1]))
    (root / "short.pkl").write_bytes(pickle.dumps({"ema": [1.5] * 100})[:40])
    shutil.copytree(root / "model", root / "swapped")
    shutil.copy(root / "song/network/model.safetensors", root / "swapped/network")

    for name, changes in (
        ("vae", {}),
        ("another", {}),
        ("vae3", {"latent_channels": 3}),
        ("vae8", {"widths": (4, 4, 4, 4), "resolution": 64}),
    ):
        (root / name).mkdir()
        tiny_vae(**changes).write_into(root / name)
    shutil.copytree(root / "vae", root / "unscaled")
    config = json.loads((root / "vae" / "config.json").read_text())
    del config["scaling_factor"]
    (root / "unscaled" / "config.json").write_text(json.dumps(config))
    LatentDiffiTPipeline(
        DiffiTTransformer(TINY_TRANSFORMER),
        AncestralSampler(num_steps=2),
        preconditioning=ADM_DIFFUSION,
        image_resolution=64,
    ).save_pretrained(root / "latent")
    encode = ["data", "encode", str(root / "plain"), "--vae", str(root / "vae")]
    main([*encode, "--resolution", "16", "--out", str(root / "kept")])
    shutil.copytree(root / "kept", root / "incomplete")
    (root / "incomplete" / "00000.safetensors").unlink()
    (root / "weights.pt").write_bytes(b"a pickle, for all we know")

    main([*COLLECT.format(place=root).split(), "--out", str(root / "solved")])
    shutil.copytree(root / "solved", root / "unsolved")
    file = root / "unsolved" / "00000.safetensors"
    file.write_bytes(file.read_bytes()[:-9])
    DSNOPipeline(temporalize(DiffiTUNet(TINY_DIFFIT))).save_pretrained(root / "operator")

    run = ["train", "diffit-digits", "--network.widths", "16", "16", "--network.head-channels", "8"]
    main([*run, "--total-images", "128", "--held-out-images", "64", "--out", str(root / "run")])
    return root


@pytest.mark.parametrize(("command", "answer"), list(cases()))
def test_bad_input_is_answered(place, tmp_path, monkeypatch, capsys, command, answer):
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    before = sorted(place.rglob("*"))
    words = command.format(collect=COLLECT, distil=DISTIL, place="{place}").format(place=place)
    words = words.split()
    if "{place}/run" in command:  # all the settings of the run, but for one
        words += ["--network.widths", "16", "16", "--network.head-channels", "8"]
        words += ["--total-images", "128", "--held-out-images", "64"]
    with pytest.raises(SystemExit) as stop:
        main(words[1:])
    assert stop.value.code in (1, 2)
    errors = capsys.readouterr().err
    said = " ".join(errors.replace("│", " ").split())
    assert answer.format(place=place) in said
    assert "Traceback" not in said
    if stop.value.code == 1:
        message = errors[errors.index("overtone: ") :]
        assert len(message.splitlines()) <= 2
    assert list(tmp_path.iterdir()) == []
    assert sorted(place.rglob("*")) == before


def test_there_are_forty_of_them():
    assert len(list(cases())) >= 40
