"""What every page says alike: exit codes, environment, files. The pages and README.md take it from here."""

__all__ = ["ENVIRONMENT", "EXIT_CODES", "FILES"]

EXIT_CODES = {
    0: "Done. An empty result, and a reader of stdout that left early, are no failures.",
    1: "It failed: a file that is not there, a full disk, a server that went away.",
    2: "Wrong usage: a command, verb, option or value that does not exist.",
    65: "Bad input data: the line names the file and the line.",
    69: "A needed part is not there: a GPU, an encoder, a package, a server, or a command not built yet.",
    130: "Interrupted (Ctrl-C). No partial file is left.",
}
ENVIRONMENT = {
    "LLMSYS_COMMAND_VERB_OPTION": "The value of an option that the command line does not give, such as "
    "LLMSYS_DOCTOR_SHOW_DEVICE for --device of llmsys doctor show.",
    "LLMSYS_CONFIG": "The file that --config names.",
    "LLMSYS_TRACEBACK": "1 prints the traceback of an error before its line.",
    "NO_COLOR, TERM": "No colour where NO_COLOR is set or TERM is dumb; --color wins.",
}
FILES = {
    "requests": "OpenAI batch lines (JSON Lines): custom_id, method, url, body; tenant or body.user names the tenant.",
    "traces": "JSON Lines: id, tenant, adapter, arrival_s, prompt_tokens, output_tokens.",
    "events": "JSON Lines with t_s and event; --chrome-trace FILE writes the same for Perfetto.",
    "tensors, adapters": "safetensors; model directories as transformers, LoRA adapters as PEFT write them.",
    "vectors": ".npy (memory-mapped), .fvecs, .bvecs, .ivecs, safetensors.",
    "index, sketch, checkpoint": "A directory with manifest.json (format version, checksums), written by rename.",
    "--config FILE.toml": "Defaults of options: a table [COMMAND.VERB] per verb, keys as the options are spelled.",
}
