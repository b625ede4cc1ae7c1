"""What `overtone train` answers when a user gets something wrong."""

import pytest

from bad_input import cases, check_answer

CASES = """
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
    batch_size must be at least 1, not 0
A learning rate below zero
    overtone train diffit-digits --lr -1
    lr must be above 0, not -1.0
A decay rate above one
    overtone train diffit-digits --betas 0.9 1.5
    betas must be in [0, 1), not 1.5
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
    encoder vit has one resolution and no skip connections: take decoder aggregation
Classes for a network that nothing enters
    overtone train diffit-digits --network.time-in none
    time_in none takes neither classes nor augmentations
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
    a.png is 16 x 16, smaller than the resolution 32. Repair or remove them, or pass
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
    the label of a.png is [0.5, 0.5], not a class label
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
A data set file that does not exist
    overtone train diffit-cifar10 --data hf:{place}/nothere.parquet
    nothere.parquet does not exist
A VAE whose latents have another number of channels
    overtone train diffit-latent-glyphs --vae {place}/vae3
    its latents have 3 channels, the network 4 (--network.channels)
A VAE without a scaling factor
    overtone train diffit-latent-glyphs --vae {place}/unscaled
    config.json has no scaling_factor: pass the one that its latents are diffused at
A VAE that is none
    overtone train diffit-latent-glyphs --vae {place}/model/network
    holds a DiffiTUNet, not an AutoencoderKL or VQModel
A VAE that does not exist
    overtone train diffit-latent-glyphs --vae {place}/nothing
    nothing does not exist
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
Augmentation of latents
    overtone train diffit-latent-glyphs --vae {place}/vae --augmentation 0.1
    augmentation is of images, not of their latents
Patches that do not divide the latents
    overtone train diffit-latent-glyphs --vae {place}/vae --network.patch 3
    resolution 4 does not divide into patches of 3
A first stage that was not trained
    overtone train relay-glyphs
    the first stage is not there: the recipe relay-glyphs-16 makes runs/relay-glyphs-16
A first stage where there is no relay
    overtone train diffit-digits --first {place}/model
    only a relay has a first stage
Patches that do not divide the image
    overtone train relay-glyphs --first= --process.patch 5
    64 px do not divide into patches of 5 px
A truncation beyond the schedule
    overtone train relay-glyphs --first= --sampler.sigma-max 5
    and the process ends at 0.301: choose a sigma_max
A truncation below the grid
    overtone train relay-glyphs --first= --sampler.truncation-sigma 0.001
    truncation_sigma 0.001 leaves no level of the grid
A blur that has another time than training
    overtone train relay-glyphs --first= --schedule.prob-length 0.6
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
    the published shapes set inception_heads: leave it out
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
    --expert: this recipe trains one network and has no experts
Checkpointing where there are no blocks
    overtone train diffit-digits --gradient-checkpointing
    --gradient-checkpointing is for transformers, not a DiffiTUNet
A recipe of a distillation, trained
    overtone train dsno-digits
    dsno-digits distils a model: overtone distill collect dsno-digits, then
"""


@pytest.mark.parametrize(("command", "answer"), list(cases(CASES)))
def test_bad_input_is_answered(place, tmp_path, monkeypatch, capsys, command, answer):
    check_answer(place, tmp_path, monkeypatch, capsys, command, answer)
