#!/bin/sh
# Measure fine-tunes, take their norms, merge with weights that follow from these, and verify the merge.
# Change the lines below, or set them where you call it:  BASE=./base MODELS="./math ./code" sh merge_workflow.sh
set -eu

BASE=${BASE:-demo/models/demo-base}
MODELS=${MODELS:-demo/models/demo-math demo/models/demo-korean demo/models/demo-home} # no spaces in their names, the last part of each its own
MEASURED=${MEASURED:-results} # what delta found
MERGED=${MERGED:-merged}      # the merged model
MODE=${MODE:-exp}             # how weights follow from norms: linear, power, exp, equal
MORE=${MORE:-}                # further options of the merge, such as --beta 2 or --dtype bfloat16
NETWEIGHT=${NETWEIGHT:-netweight}
PYTHON=${PYTHON:-python3}

# 1. What did each fine-tune change?
$NETWEIGHT delta --base "$BASE" --models $MODELS --outdir "$MEASURED"

# 2. The norm of each task vector, in the order of MODELS. (--from "$MEASURED" would hand them over as they are.)
NORMS=$(for model in $MODELS; do
    $PYTHON -c 'import json, sys; print(json.load(open(sys.argv[1]))["global_l2"])' \
        "$MEASURED/$(basename "$model")/summary.json"
done | tr '\n' ' ')
echo "norms: $NORMS"

# 3. Merge with weights that follow from these. --overwrite replaces an earlier merge, and no other folder.
$NETWEIGHT merge --base "$BASE" --models $MODELS --mode "$MODE" --l2-norms $NORMS $MORE --output "$MERGED" --overwrite

# 4. Is the merge what its recipe gives, bit for bit?
$NETWEIGHT verify "$MERGED"
