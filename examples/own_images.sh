#!/bin/sh
# From a folder of pictures to models that can be handed on.
#
#     sh examples/own_images.sh ~/pictures        as long as the recipes say: a day on two CPU cores
#     sh examples/own_images.sh ~/pictures 64     a rehearsal: small networks, of 64 images each
#
# Begun again, it goes on where it stopped: each training resumes by itself.
set -eu
PICTURES=$1
SHORT=${2:+--total-images $2 --held-out-images $2 --sampler.num-steps 4}
SMALL=${2:+--network.widths 16 32}
SHORT_DISTILLATION=${2:+--total-images $2 --count $2 --steps 4}

# What is in the folder, and a first model, of small images.
overtone data inspect "$PICTURES" --resolution 16
overtone train images --data "$PICTURES" --resolution 16 --out runs/small $SHORT $SMALL
overtone sample runs/small --seeds 0-15 --out small.png

# The same model fine-tuned to twice the resolution, and the average of its weights that is best.
overtone train images --data "$PICTURES" --resolution 32 --init runs/small --out runs/large $SHORT
test -d models/large || overtone ema runs/large --lengths 0.06 0.1 --out models/large
overtone evaluate models/large --data "$PICTURES" --seeds 0-31 --out scores.json

# A relay from 16 to 32 px, which enlarges pictures of any size.
overtone train relay-images --data "$PICTURES" --resolution 32 --first runs/small --out runs/relay $SHORT $SMALL
overtone upscale "$PICTURES" --model runs/relay --out enlarged

# The fine-tuned model distilled to one evaluation an image.
overtone train dsno-images --teacher models/large --out runs/student $SHORT_DISTILLATION
overtone sample runs/student --seeds 0-15 --out student.png

# Handed on: with a card that shows its scores, and as a program that needs no Overtone.
test -d models/mine || overtone card models/large --license cc-by-4.0 --scores scores.json --out models/mine
test -d exported || overtone export runs/student --out exported
(cd exported && python sample.py 7)
