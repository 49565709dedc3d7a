#!/bin/sh
# The toolkit's main job on real input: tenants of a real trace, real prompts, trained adapters, a fair order, a bill.
set -eu
cd "$(dirname "$0")"
rm -rf demo-out && mkdir demo-out

# the pipeline
llmsys serve-lora adapters check fixtures/adapters > demo-out/adapters.jsonl
llmsys fair-queue trace requests fixtures/arena27-first60.jsonl --prompts fixtures/vicuna40.jsonl \
    --models smollm2,json,lower,bullet,terse --max-tokens 40 > demo-out/requests.jsonl
llmsys fair-queue order demo-out/requests.jsonl |
    llmsys serve-lora run - --adapters fixtures/adapters --policy vtc --concurrency 16 \
        --events demo-out/events.jsonl --ledger demo-out/ledger.jsonl > demo-out/answers.jsonl
llmsys serve-lora answers demo-out/requests.jsonl demo-out/answers.jsonl --limit 3 | tee demo-out/side-by-side.jsonl
llmsys serve-lora cost report demo-out/ledger.jsonl --by tenant > demo-out/cost.json
llmsys fair-queue audit demo-out/events.jsonl > demo-out/verdict.json
# the end

echo "made:" demo-out/*
