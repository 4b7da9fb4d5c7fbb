"""Runs every guest of guests.toml under Wasmtime (PyPI) and compares its output and exit code with what is written there.

Run by `cargo xtask guests --check`. The expected outputs were made by the same programs built for the machine, not for
Wasm. With `--bench` the larger runs are done too, and the calls of the exports."""

import hashlib
import pathlib
import sys
import tempfile
import time
import tomllib

import wasmtime

HERE = pathlib.Path(__file__).parent


def instantiate(engine, module, args, stdin, directory, files=None):
    store = wasmtime.Store(engine)
    wasi = wasmtime.WasiConfig()
    wasi.argv = args
    for name, content in (("in", stdin), ("out", b""), ("err", b"")):
        (directory / name).write_bytes(content)
    wasi.stdin_file, wasi.stdout_file, wasi.stderr_file = (str(directory / name) for name in ("in", "out", "err"))
    if files:
        wasi.preopen_dir(str(files), "/data")
    store.set_wasi(wasi)
    linker = wasmtime.Linker(engine)
    linker.define_wasi()
    return store, linker.instantiate(store, module).exports(store)


def run(engine, module, name, args, stdin, directory, files):
    """Exit code, standard output and milliseconds of one run."""
    store, exports = instantiate(engine, module, [name, *args], stdin, directory, files)
    start, code = time.monotonic(), 0
    try:
        exports["_start"](store)
    except wasmtime.ExitTrap as exit:
        code = exit.code
    return code, (directory / "out").read_bytes(), (time.monotonic() - start) * 1000


def differences(expected, code, output):
    if code != expected.get("exit", 0):
        yield f"exit code {code}"
    if "stdout" in expected and output != expected["stdout"].encode():
        yield f"output {output!r}"
    if "stdout_sha256" in expected and hashlib.sha256(output).hexdigest() != expected["stdout_sha256"]:
        yield f"output with digest {hashlib.sha256(output).hexdigest()}"


def main():
    bench = "--bench" in sys.argv
    config = wasmtime.Config()
    config.max_wasm_stack = 2 << 20
    engine = wasmtime.Engine(config)
    modules, failed = {}, 0
    with tempfile.TemporaryDirectory() as scratch:
        scratch = pathlib.Path(scratch)
        for guest in tomllib.loads((HERE / "guests.toml").read_text())["guest"]:
            runs = [("test", guest)] + ([("bench", guest["bench"])] if bench and "bench" in guest else [])
            for name in (guest["module"], *guest.get("variants", [])):
                if name not in modules:
                    modules[name] = wasmtime.Module.from_file(engine, str(HERE / "out" / f"{name}.wasm"))
                for kind, expected in runs:
                    stdin = expected.get("stdin", "").encode()
                    if "stdin_file" in expected:
                        stdin = (HERE / expected["stdin_file"]).read_bytes()
                    files = pathlib.Path(tempfile.mkdtemp(dir=scratch)) if guest.get("files") else None
                    code, output, millis = run(engine, modules[name], name, expected["args"], stdin, scratch, files)
                    problems = list(differences(expected, code, output))
                    if kind == "bench" and "export" in expected:
                        store, exports = instantiate(engine, modules[name], [name], b"", scratch)
                        call = exports[expected["export"]]
                        first, second = (call(store, expected["size"], 1) & (1 << 64) - 1 for _ in range(2))
                        if first != second or f"{first:016x}" not in expected["stdout"]:
                            problems.append(f"{expected['export']} gave {first:016x}, then {second:016x}")
                    failed += bool(problems)
                    print(f"{'FAILED' if problems else 'ok':6} {guest['name']} {name} {kind} {millis:.1f} ms", *problems)
    if failed:
        sys.exit(f"{failed} runs differ from guests.toml")


main()
