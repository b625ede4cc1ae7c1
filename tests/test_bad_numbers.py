"""Numbers outside their ranges, names of every kind, and places that can't be written to: what each
command answers, before any long work."""

import pytest

from bad_input import cases, check_answer

CASES = """
Gradient ascent
    overtone train diffit-digits --clip-norm -1
    clip_norm must be above 0, not -1.0
A ramp below zero
    overtone train diffit-digits --lr-rampdown-images -1
    lr_rampdown_images must be at least 0, not -1
A ramp up below zero
    overtone train diffit-digits --lr-rampup-images -5
    lr_rampup_images must be at least 0, not -5
More dropout than there is
    overtone train diffit-digits --network.dropout 5
    dropout must be in [0, 1), not 5.0
A seed of many bits
    overtone train diffit-digits --seed 1180591620717411303424
    seed must be at most 9,223,372,036,854,775,807, not 1180591620717411303424
A seed below zero
    overtone train diffit-digits --seed -1
    seed must be at least 0, not -1
A learning rate that is no number
    overtone train diffit-digits --lr nan
    lr must be finite, not nan
An infinite learning rate
    overtone train diffit-digits --lr inf
    lr must be finite, not inf
A learning rate of zero
    overtone train diffit-digits --lr 0
    lr must be above 0, not 0.0
An average without a half-life
    overtone train diffit-digits --ema-halflife-images 0
    ema_halflife_images must be at least 1, not 0
A share of images below zero
    overtone train diffit-digits --ema-rampup-ratio -0.5
    ema_rampup_ratio must be above 0, not -0.5
No images at all
    overtone train diffit-digits --total-images 0
    total_images must be at least 1, not 0
More images than anybody has
    overtone train diffit-digits --total-images 10000000000000000000
    total_images must be at most 10^15, not 10000000000000000000
A micro-batch below zero
    overtone train diffit-digits --micro-batch -4
    micro_batch must be at least 1, not -4
No report ever
    overtone train diffit-digits --report-images 0
    report_images must be at least 1, not 0
No checkpoint kept
    overtone train diffit-digits --keep 0
    keep must be at least 1, not 0
Processes below zero
    overtone train diffit-digits --workers -1
    workers must be from 0 to 1,024, not -1
Processes beyond any machine
    overtone train diffit-digits --workers 1000000
    workers must be from 0 to 1,024, not 1000000
A width of nothing
    overtone train diffit-digits --network.widths 0 32
    widths must be at least 1, not 0
A width below zero
    overtone train diffit-digits --network.widths -16 32
    widths must be at least 1, not -16
A width beyond any memory
    overtone train diffit-digits --network.widths 100000000 32
    widths must be at most 100,000, not 100000000
Cells without end
    overtone train diffit-digits --network.num-cells 1000000000 1
    num_cells must be from 1 to 1,000, not 1000000000
A resolution below zero
    overtone train diffit-digits --network.resolution -8
    resolution must be at least 1, not -8
No channels
    overtone train diffit-digits --network.channels 0
    channels must be at least 1, not 0
Classes below zero
    overtone train diffit-digits --network.num-classes -3
    num_classes must be at least 0, not -3
A guidance scale that is no number
    overtone train diffit-digits --guidance.scale nan
    guidance_scale must be finite, not nan
Guidance on a channel below the first
    overtone train diffit-digits --guidance.channels -1
    guidance_channels must be at least 0, not -1
A standard deviation of nothing
    overtone train diffit-digits --preconditioning.sigma-data 0
    sigma_data must be above 0, not 0.0
A standard deviation below zero
    overtone train diffit-digits --preconditioning.sigma-data -0.5
    sigma_data must be above 0, not -0.5
Noise levels of no width
    overtone train diffit-digits --schedule.P-std 0
    P_std must be above 0, not 0.0
Noise levels about nothing
    overtone train diffit-digits --schedule.P-mean nan
    P_mean must be finite, not nan
Steps below zero
    overtone train diffit-digits --sampler.num-steps -1
    num_steps must be at least 1, not -1
Steps without end
    overtone train diffit-digits --sampler.num-steps 1000000000
    num_steps must be at most 100,000, not 1000000000
A highest noise level of infinity
    overtone train diffit-digits --sampler.sigma-max inf
    sigma_max must be finite, not inf
Churn below zero
    overtone train diffit-digits --sampler.S-churn -40
    S_churn must be at least 0, not -40.0
An exponent of nothing
    overtone train diffit-digits --sampler.rho 1e-300
    rho must be from 0.1 to 1,000, not 1e-300
A word for a share
    overtone train diffit-digits --label-dropout half
    Error parsing --label-dropout
A patch of nothing
    overtone train relay-glyphs --process.patch 0
    patch must be at least 1, not 0
A blur below zero
    overtone train relay-glyphs --process.blur-sigma-max -3
    blur_sigma_max must be at least 0, not -3.0
A probability of an expert above one
    overtone train meme-digits --experts.probabilities 2 0.5 0.5 0.5
    probabilities must be in [0, 1], not 2.0
A boundary of infinity
    overtone train meme-digits --experts.boundaries 0.1 1 inf
    boundaries must be finite, not inf
The expert before the first
    overtone train meme-digits --expert 0
    --expert must be at least 1, not 0
A weight of nothing finite
    overtone train vae-glyphs --kl-weight inf
    kl_weight must be finite, not inf
A scale of latents below zero
    overtone train diffit-latent-glyphs --scaling-factor -1
    scaling_factor must be above 0, not -1.0
A seed twice as long as one
    overtone sample {place}/model --seeds 99999999999999999999
    seeds are in 0..4294967295, first before last
Four thousand million seeds
    overtone sample {place}/model --seeds 0-4294967295
    names 4,294,967,296 seeds, and 1,000,000 are the most
Seeds backwards
    overtone sample {place}/model --seeds 9-3
    seeds are in 0..4294967295, first before last
A seed below zero to draw with
    overtone sample {place}/model --seeds=-1
    --seeds is like 0-63 or 3,5,8-12, not '-1'
No seeds
    overtone sample {place}/model --seeds ,
    --seeds is like 0-63 or 3,5,8-12, not ','
A thousand million columns
    overtone sample {place}/model --columns 1000000000
    --columns must be at most 10,000, not 1000000000
Batches below zero
    overtone sample {place}/model --batch-size -64
    --batch-size must be at least 1, not -64
Steps below zero to sample with
    overtone sample {place}/model --steps -18
    --steps must be at least 1, not -18
A million million steps
    overtone sample {place}/model --steps 1000000000000
    --steps must be at most 100,000, not 1000000000000
A scale of infinity
    overtone sample {place}/model --guidance-scale inf
    --guidance-scale must be finite, not inf
An interval below zero
    overtone sample {place}/model --guidance-scale 2 --guidance-interval -1 2
    --guidance-interval must be at least 0, not -1.0
An interval that is no number
    overtone sample {place}/model --guidance-scale 2 --guidance-interval nan 2
    --guidance-interval must be finite, not nan
Experts on the device below zero
    overtone sample {place}/meme --resident -1
    --resident must be at least 1, not -1
A scale of latents that is no number
    overtone sample {place}/latent --vae {place}/vae --scaling-factor nan
    --scaling-factor must be finite, not nan
A strength above one
    overtone edit {place}/unconditional {place}/plain/a.png --strength 1.5
    --strength must be in [0, 1], not 1.5
A strength that is no number
    overtone edit {place}/unconditional {place}/plain/a.png --strength nan
    --strength must be in [0, 1], not nan
Resampling without end
    overtone edit {place}/unconditional {place}/plain/a.png --resamples 100000
    --resamples must be from 1 to 1,000, not 100000
No real images
    overtone evaluate {place}/model --data builtin:digits --real-images 0
    --real-images must be at least 1, not 0
Images of no size
    overtone evaluate {place}/plain --data builtin:digits --resolution 0
    --resolution must be at least 1, not 0
Too few images to evaluate
    overtone evaluate {place}/splits --data builtin:digits --resolution 8 --channels 1
    1 image is too few to evaluate: ask for 4 at least
Real images too few to compare with
    overtone evaluate {place}/unconditional --data builtin:digits --real-images 7
    7 real images are too few to compare with: 8 are the least
An inspection of no size
    overtone data inspect {place}/plain --resolution 0
    --resolution must be at least 1, not 0
A sheet that is no picture
    overtone data inspect {place}/plain --out sheet.jpg
    --out is a .png file, not sheet.jpg
Latents of no images
    overtone data encode {place}/plain --vae {place}/vae --resolution 16 --images 0 --out out
    --images must be at least 1, not 0
Latents of no resolution
    overtone data encode {place}/plain --vae {place}/vae --resolution 0 --out out
    --resolution must be at least 1, not 0
A boundary of nothing
    overtone merge {place}/unconditional {place}/unconditional --boundaries 0 --out out
    --boundaries must be above 0, not 0.0
A boundary that is no number
    overtone merge {place}/unconditional {place}/unconditional --boundaries nan --out out
    --boundaries must be finite, not nan
No budget
    overtone merge {place}/unconditional {place}/unconditional --boundaries 1 --steps 0 3 --out out
    --steps must be at least 1, not 0
No trajectories
    overtone {collect} --count 0
    count must be at least 1, not 0
Times below one
    overtone {collect} --num-times 0
    num_times must be at least 1, not 0
A time beyond pure noise
    overtone {collect} --times 1.5 0.5 0
    times must be in [0, 1), not 1.5
Modes below one
    overtone {distil} --data {place}/solved --modes 0
    modes must be at least 1, not 0
A part of none
    overtone {collect} --part 0/3
    --part
A signal at no noise
    overtone analyze snr builtin:glyphs --sigma -1
    --sigma must be above 0, not -1.0
Blocks of one pixel
    overtone analyze snr builtin:glyphs --factor 1
    --factor must be at least 2, not 1
Blocks below zero
    overtone analyze snr builtin:glyphs --block-scale -0.1
    --block-scale must be at least 0, not -0.1
A signal of no images
    overtone analyze snr builtin:glyphs --images 0
    --images must be at least 1, not 0
A scale that is no number to draw
    overtone analyze guidance {place}/model --scales 1 nan
    --scales must be finite, not nan
A grid where a file is in the way
    overtone sample {place}/unconditional --seeds 0-1 --out {place}/none.zip/grid.png
    none.zip is a file. Choose another --out
A grid where a directory is in the way
    overtone sample {place}/unconditional --seeds 0-1 --out {place}/folder.png
    a directory of that name is there. Choose another --out
A report where a file is in the way
    overtone evaluate {place}/model --data builtin:digits --out {place}/none.zip/report.json
    none.zip is a file. Choose another --out
An edited picture where a file is in the way
    overtone edit {place}/unconditional {place}/plain/a.png --fit --out {place}/none.zip/e.png
    none.zip is a file. Choose another --out
Experts where a file is in the way
    overtone merge {place}/model {place}/model --boundaries 1 --out {place}/none.zip/all
    none.zip is a file. Choose another --out
A run where a file is in the way
    overtone train diffit-digits --out {place}/none.zip/run
    none.zip is a file. Choose another --out
A conversion of a picture
    overtone convert diffit-latent {place}/plain/a.png out
    a.png holds no checkpoint that torch saved: it is an image
A conversion of a pickle that is none
    overtone convert diffit-latent {place}/list.pkl out
    list.pkl holds no weights
A conversion of another model's weights
    overtone convert diffit-latent {place}/song/network/model.safetensors out
    these are not the weights of a latent DiffiT
A conversion of safetensors that ought to be a pickle
    overtone convert edm {place}/song/network/model.safetensors out
    is of the format safetensors
A run that is none
    overtone train {place}/plain
    unknown recipe
"""


@pytest.mark.parametrize(("command", "answer"), list(cases(CASES)))
def test_bad_input_is_answered(place, tmp_path, monkeypatch, capsys, command, answer):
    check_answer(place, tmp_path, monkeypatch, capsys, command, answer)


def test_the_tables_are_long():
    import test_bad_input
    import test_bad_input_train

    tables = (CASES, test_bad_input.CASES, test_bad_input_train.CASES)
    assert sum(len(list(cases(table))) for table in tables) >= 200
