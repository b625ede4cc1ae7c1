"""What every command but `overtone train` answers when a user gets something wrong."""

import pytest

from bad_input import cases, check_answer

CASES = """
A command that does not exist
    overtone trian diffit-digits
    unknown command 'trian': did you mean 'train'?
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
    --steps must be at least 1, not 0
No images at a time
    overtone sample {place}/model --batch-size 0
    --batch-size must be at least 1, not 0
A picture of another format
    overtone sample {place}/model --out grid.jpg
    --out is a .png file or a directory, not grid.jpg
A grid without columns
    overtone sample {place}/model --columns 0
    --columns must be at least 1, not 0
A checkpoint that does not exist
    overtone sample {place}/model --checkpoint newest
    --checkpoint is last or best, not 'newest'
An evaluation without data
    overtone evaluate {place}/model
    pass --data: the model was trained on something that was not saved with it
An evaluation of images at no size
    overtone evaluate {place}/plain --data builtin:digits
    to score images, give the real ones, --data, and --resolution
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
A VAE that makes images of another size
    overtone sample {place}/latent --vae {place}/vae
    the model is of images of 64 px, the VAE would make 8 px latents into 16 px
A VAE for pixels
    overtone sample {place}/model --vae {place}/vae
    model makes pixels, not latents: leave it out
Latents and nothing to decode them
    overtone sample {place}/latent
    no VAE was saved with it to decode them: set pipe.vae to one, or pass --vae
A class outside a latent model's
    overtone sample {place}/latent --classes 7
    unknown class '7': known: 0, 1, 2
Latents encoded over other ones
    overtone data encode {place}/plain --vae {place}/vae --resolution 32 --out {place}/kept
    kept holds other latents (
Endless images to encode
    overtone data encode builtin:glyphs --vae {place}/vae --resolution 16 --out latents
    builtin:glyphs never ends: say how many of its images to encode (--images
A checkpoint of another architecture
    overtone convert diffit-latent {place}/song/network/model.safetensors out
    these are not the weights of a latent DiffiT
A checkpoint that could run code
    overtone convert diffit-latent {place}/evil.pkl out
    calling builtins.eval is refused: a checkpoint has no need of it
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
    the stages have different numbers of classes: the first has 5, the second 3
Labels for an unconditional stage
    overtone sample {place}/unconditional --classes 1
    class labels were given, but the model is unconditional
A finish that does not exist
    overtone sample {place}/model --finish relay-imagnet
    unknown finish 'relay-imagnet': did you mean 'relay-imagenet'?
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
    network/config.json: boundaries must be above 0, not -1.0
Residence of a model that is no expert
    overtone sample {place}/model --resident 1
    resident is for models of experts, and this one has one network
Residence of more experts than there are
    overtone sample {place}/meme --resident 3
    resident is in [1, 2], not 3
A spectrum of no step
    overtone analyze spectrum {place}/model --levels 0
    --levels must be at least 1, not 0
A noise level of zero
    overtone analyze snr builtin:digits --resolution 8 --channels 1 --sigma 0
    --sigma must be above 0
A scheduler that does not exist
    overtone sample {place}/latent --vae {place}/vae8 --scheduler DDIMSchedular
    unknown scheduler 'DDIMSchedular': did you mean 'DDIMScheduler'?
A scheduler of discrete steps for a model without
    overtone sample {place}/model --scheduler DDIMScheduler
    --scheduler is for models of discrete steps
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
    diffit-digits is not a recipe of distillation: use overtone train diffit-digits
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
    is an operator: name the model that it was distilled from
An operator's trajectory without its teacher
    overtone analyze trajectory {place}/operator
    is an operator: name the model that it was distilled from
The teacher of a model that is not an operator
    overtone analyze trajectory {place}/model --teacher {place}/model
    --teacher: {place}/model is not an operator: leave it out
One time for a spectrum
    overtone analyze trajectory {place}/model --times 1
    --times is at least 2, not 1
"""


@pytest.mark.parametrize(("command", "answer"), list(cases(CASES)))
def test_bad_input_is_answered(place, tmp_path, monkeypatch, capsys, command, answer):
    check_answer(place, tmp_path, monkeypatch, capsys, command, answer)
