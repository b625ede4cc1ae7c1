#!/bin/sh
# From a folder of pictures to models that can be handed on:
#
#     sh examples/own_images.sh ~/pictures           as long as the recipes say: hours on two CPU cores
#     sh examples/own_images.sh ~/pictures 20000     each training with 20,000 images
#
# Begun again, it goes on where it stopped; each training resumes by itself.
set -eu
PICTURES=$1
LONG=${2:+--total-images $2}

# What is in the folder, and a first model of small images.
overtone data inspect "$PICTURES" --resolution 16
overtone train images --data "$PICTURES" --resolution 16 --out runs/small $LONG
overtone sample runs/small --out small.png

# The same model fine-tuned to twice the resolution, and its average of the best length.
overtone train images --data "$PICTURES" --resolution 32 --init runs/small --out runs/large $LONG
test -d models/large || overtone ema runs/large --lengths 0.05 0.1 0.2 --out models/large
overtone evaluate models/large --data "$PICTURES" --seeds 0-99 --out scores.json

# A relay from 16 to 32 px, which enlarges pictures of any size.
overtone train relay-images --data "$PICTURES" --resolution 32 --first runs/small --out runs/relay $LONG
overtone upscale "$PICTURES" --model runs/relay --out enlarged

# The fine-tuned model distilled to one evaluation an image.
overtone train dsno-images --data "$PICTURES" --teacher models/large --out runs/student $LONG
overtone sample runs/student --out student.png

# Handed on: with a card of its scores, and as a program that needs no Overtone.
test -d models/mine || overtone card models/large --license cc-by-4.0 --scores scores.json --out models/mine
test -d exported || overtone export runs/student --out exported
(cd exported && python sample.py 7)
