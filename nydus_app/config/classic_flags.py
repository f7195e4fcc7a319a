"""nydusd's command line (contract 1): one table of flags, a parser as strict as clap, overrides.

What reads configuration files is imported only where there is one: `--version` is asked often.

Wrong usage raises UsageError (exit 2) with one line; what nydusd refuses only later, such as a limit
that is no number, raises ConfigFileError (exit 1).
"""

import difflib
import logging
import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from nydus_app.config.overrides import Override
from nydus_app.errors import ConfigError, ConfigFileError

log = logging.getLogger("nydus.config")
NUMBER = re.compile(r"\+?[0-9]{1,20}\Z")
"""What Rust's parser of unsigned numbers takes: no blanks, no underscores, no other digits."""


class UsageError(ConfigError):
    """The command line itself is wrong."""


def _threads(flag: str, text: str) -> object:
    if not NUMBER.match(text):
        raise UsageError(f"invalid value '{text}' for '{flag}': invalid thread number configuration: {text}")
    if not 1 <= int(text) <= 1024:
        raise UsageError(f"invalid value '{text}' for '{flag}': invalid thread number {int(text)}, valid range: [1-1024]")
    return int(text)


def _log_rotation(flag: str, text: str) -> object:
    return _u64(text, f"Invalid log rotation size {text!r}: MiB are wanted")


def _nofile(flag: str, text: str) -> object:
    return _u64(text, f"rlimit-nofile {text!r}: a number of files is wanted")


def _u64(text: str, error: str) -> int:
    if not NUMBER.match(text) or int(text) >> 64:
        raise ConfigFileError(error)
    return int(text)


class Flag(NamedTuple):
    """One option. `value` is its name in help, None for a switch; `key` its place in the tree."""

    name: str
    key: str | None
    help: str
    value: str | None = None
    short: str | None = None
    default: object = None
    choices: tuple[str, ...] = ()
    convert: Callable[[str, str], object] | None = None
    alias: str | None = None

    @property
    def flag(self) -> str:
        return f"--{self.name} <{self.name}>" if self.value else f"--{self.name}"


GLOBAL = (
    Flag("apisock", "api.sock", "Path of the administration API's socket", "PATH", "A"),
    Flag("config", None, "nydusd configuration file, JSON or TOML", "FILE", "C"),
    Flag("id", "daemon.id", "Service instance identifier", "ID"),
    Flag(
        "log-level", "log.level", "Log level", "LEVEL", "l", "info", ("trace", "debug", "info", "warn", "error")
    ),
    Flag("log-file", "log.file", "Append the log to a file; .log is added where it has no extension", "FILE", "L"),
    Flag("log-rotation-size", "log.rotation_size", "Rotate the log at so many MiB, 0 never", "MB", None, 0, (), _log_rotation),
    Flag("rlimit-nofile", "daemon.rlimit_nofile", "Limit of open files, 0 leaves it", "N", None, 1_000_000, (), _nofile),
    Flag("supervisor", "daemon.supervisor", "Path of the supervisor's socket", "PATH"),
    Flag("upgrade", "daemon.upgrade", "Start in upgrade mode"),
    Flag("print-overrides", None, "Print the nydus-run line that means the same, and exit"),
    Flag("print-recipe", None, "Print this command line as a recipe, and exit"),
)
FUSE = (
    Flag("mountpoint", "mountpoint", "Directory to mount on (required)", "DIR", "M"),
    Flag(
        "failover-policy", "mode.failover_policy", "What a successor does with requests in flight", "POLICY",
        None, "resend", ("none", "resend", "flush"),
    ),  # fmt: skip
    Flag("fuse-threads", "mode.threads", "Worker threads, 1 to 1024", "N", None, 4, (), _threads, "thread-num"),
    Flag("writable", "mode.writable", "Mount read-write"),
)
FILES = (
    Flag("bootstrap", "bootstrap", "RAFS bootstrap, or a blob that carries one", "FILE", "B"),
    Flag("localfs-dir", None, "Directory of the blobs, instead of a configuration file", "DIR", "D"),
    Flag("shared-dir", "shared_dir", "Host directory to serve instead of an image", "DIR", "s"),
    Flag("prefetch-files", "prefetch_files", "File with one absolute path a line", "FILE"),
    Flag("virtual-mountpoint", "virtual_mountpoint", "Path inside the mount", "PATH", "m", "/"),
    Flag("dedup-db", "daemon.dedup_db", "Database file for chunk deduplication", "FILE"),
)
VIRTIOFS = (
    Flag("sock", "mode.sock", "vhost-user socket (required)", "PATH"),
    Flag("hybrid-mode", None, "Turn hybrid mode off"),
)
SINGLETON = (
    Flag("fscache", "mode.fscache", "Working directory of the kernel's cachefiles", "DIR", "F"),
    Flag("fscache-tag", "mode.fscache_tag", "Tag of this fscache instance", "TAG"),
    Flag("fscache-threads", "mode.fscache_threads", "Worker threads, 1 to 1024", "N", None, 4, (), _threads),
)


class Command(NamedTuple):
    help: str
    flags: tuple[Flag, ...]
    required: tuple[str, ...] = ()


COMMANDS: Mapping[str, Command] = {
    "fuse": Command("Mount an image by FUSE (also without the word)", (*FUSE, *FILES, *GLOBAL), ("mountpoint",)),
    "virtiofs": Command("Serve a guest over vhost-user", (*VIRTIOFS, *FILES, *GLOBAL), ("sock",)),
    "singleton": Command("Host many images, added by the API", (*SINGLETON, *GLOBAL)),
}
LATER = ("nbd", "uffd")
ONLY_WITHOUT_WORD = ("dedup-db",)
"""Flags that nydusd reads where no subcommand is given only; behind one they have no effect."""
CONFLICTS = (("bootstrap", "shared-dir"), ("localfs-dir", "config"), ("print-overrides", "print-recipe"))
REQUIRES = (
    ("id", "supervisor"),
    ("supervisor", "id"),
    ("prefetch-files", "bootstrap"),
    ("fscache-tag", "fscache"),
)


class Parsed(NamedTuple):
    """`given` maps flag names to converted values; help, version or a subcommand's help may be asked."""

    command: str
    given: dict[str, object]
    wants: str | None = None  # "help" or "version"


def parse(arguments: Sequence[str]) -> Parsed:
    """Raises UsageError, ConfigFileError."""
    words = list(arguments)
    if any("\udc80" <= c <= "\udcff" for word in words for c in word):
        raise UsageError("invalid UTF-8 was detected in one or more arguments")
    if not words or words[0].startswith("-"):
        return _parse("fuse", words, explicit=False)
    name = words.pop(0)
    if name == "help":
        return Parsed(_subject_of_help(words), {}, "help")
    _check_command(name)
    return _parse(name, words, explicit=True)


def _check_command(name: str) -> None:
    if name in LATER:
        raise UsageError(f"the subcommand '{name}' is not supported by this version")
    if name not in COMMANDS:
        close = difflib.get_close_matches(name, [*COMMANDS, "help"], n=1)
        raise UsageError(f"unrecognized subcommand '{name}'" + (f"; did you mean '{close[0]}'?" if close else ""))


def _subject_of_help(words: Sequence[str]) -> str:
    """`help`, `help COMMAND` and `help help`, and nothing more."""
    for word in words[1:]:
        raise UsageError(f"unrecognized subcommand '{word}'")
    if not words or words[0] == "help":
        return ""
    _check_command(words[0])
    return words[0]


def _parse(name: str, words: list[str], *, explicit: bool) -> Parsed:
    given = _take(name, explicit, words)
    if isinstance(given, str):
        return Parsed(name if explicit else "", {}, given)
    _check_relations(name, given)
    for flag in ONLY_WITHOUT_WORD:
        if explicit and given.pop(flag, None) is not None:
            log.warning("--%s has no effect after the word %s", flag, name)
    return Parsed(name, given)


def _take(name: str, explicit: bool, words: list[str]) -> dict[str, object] | str:
    """Flags and values; "help" or "version" where that is asked, also as `-hX`."""
    flags = COMMANDS[name].flags
    by_word = {f"--{f.name}": f for f in flags}
    by_word |= {f"--{f.alias}": f for f in flags if f.alias} | {f"-{f.short}": f for f in flags if f.short}
    given: dict[str, object] = {}
    while words:
        word = words.pop(0)
        if word == "--help" or word.startswith("-h"):
            return "help"
        if (word == "--version" or word.startswith("-V")) and not explicit:
            return "version"
        if word == "--" and not words:
            break
        flag, value = _split(word, by_word)
        if flag is None:
            raise UsageError(_unexpected(word if word != "--" else words[0], by_word, bool(given)))
        if flag.name in given:
            raise UsageError(f"the argument '{flag.flag}' cannot be used multiple times")
        if flag.value is None and value is not None:
            raise UsageError(f"unexpected value '{value}' for '{flag.flag}' found; no more were expected")
        if flag.value is not None and value is None:
            if not words or (words[0].startswith("-") and words[0] != "-"):
                raise UsageError(f"a value is required for '{flag.flag}' but none was supplied")
            value = words.pop(0)
        given[flag.name] = True if value is None else _convert(flag, value)
    return given


def _split(word: str, by_word: Mapping[str, Flag]) -> tuple[Flag | None, str | None]:
    """`--flag`, `--flag=value`, `-f`, `-fvalue` and `-f=value`."""
    if word.startswith("--"):
        name, equals, value = word.partition("=")
        return by_word.get(name), value if equals else None
    if word.startswith("-") and len(word) > 1:
        rest = word[2:]
        return by_word.get(word[:2]), (rest.removeprefix("=") if rest else None)
    return None, None


def _unexpected(word: str, by_word: Mapping[str, Flag], after_flags: bool) -> str:
    if after_flags and word in COMMANDS:
        return f"the subcommand '{word}' must come first, before all flags"
    name = word.partition("=")[0]
    close = difflib.get_close_matches(name, [w for w in by_word if w.startswith("--")], n=1)
    return f"unexpected argument '{name}' found" + (f"; did you mean '{close[0]}'?" if close else "")


def _convert(flag: Flag, value: str) -> object:
    if flag.choices and value not in flag.choices:
        raise UsageError(
            f"invalid value '{value}' for '{flag.flag}' (possible values: {', '.join(flag.choices)})"
        )
    return flag.convert(f"--{flag.name} <{flag.name}>", value) if flag.convert else value


def _check_relations(name: str, given: Mapping[str, object]) -> None:
    for a, b in CONFLICTS:
        if a in given and b in given:
            raise UsageError(f"the argument '--{a}' cannot be used with '--{b}'")
    missing = [f"--{r} <{r}>" for r in COMMANDS[name].required if r not in given]
    missing += [f"--{b} <{b}>" for a, b in REQUIRES if a in given and b not in given and not _excluded(b, given)]
    if missing:
        raise UsageError(f"the following required arguments were not provided: {', '.join(missing)}")


def _excluded(name: str, given: Mapping[str, object]) -> bool:
    """Whether another flag forbids this one; then clap does not require it either."""
    return any(given.keys() & {*pair} - {name} for pair in CONFLICTS if name in pair)


# ---- overrides ----------------------------------------------------------------------------------


def to_overrides(parsed: Parsed) -> list[Override]:
    """The command line as overrides of the tree. Reads the configuration file; ConfigFileError."""
    given = parsed.given
    found = [Override("mode", parsed.command)]
    for flag in COMMANDS[parsed.command].flags:
        if flag.key is not None:
            default = False if flag.value is None else flag.default
            found.append(Override(flag.key, given.get(flag.name, default)))
    if parsed.command == "fuse":
        found += _image(given)
    elif parsed.command == "virtiofs":
        found += [Override("mode.hybrid_mode", "hybrid-mode" not in given), Override("mountpoint", None), *_image(given)]
    else:
        found += [
            Override("mode.blobs_file", given.get("config")),
            Override("mountpoint", None),
            Override("bootstrap", None),
        ]
    return found


def _image(given: Mapping[str, object]) -> list[Override]:
    """The file named by --config is opened only where there is a bootstrap, as nydusd does."""
    if "bootstrap" not in given:
        return []
    if "localfs-dir" in given:
        return _localfs(str(given["localfs-dir"]))
    if "config" not in given:
        raise ConfigFileError("both --config and --localfs-dir are missing")
    from nydus_app.config.nydusd_files import read_file

    overrides = read_file(str(given["config"]))
    auth = os.environ.get("IMAGE_PULL_AUTH")
    if auth and Override("backend", "registry") in overrides:
        overrides = [o for o in overrides if o.key != "backend.auth"] + [Override("backend.auth", auth)]
    return overrides


def _localfs(directory: str) -> list[Override]:
    """What nydusd generates for --localfs-dir (contract 1.8)."""
    import json

    from nydus_app.config.nydusd_files import decode

    backend = {"type": "localfs", "config": {"dir": directory}}
    cache = {"type": "blobcache", "config": {"work_dir": directory}}
    return decode(json.dumps({"device": {"backend": backend, "cache": cache}, "mode": "direct"}))


# ---- help ---------------------------------------------------------------------------------------


def help_text(command: str) -> str:
    """`command` empty: the whole program's."""
    name = command or "fuse"
    usage = " ".join(f"--{r} <{r}>" for r in COMMANDS[name].required)
    lines = [f"{COMMANDS[name].help}\n" if command else "Mounts container images on demand; takes nydusd's command line\n"]
    lines.append(f"Usage: nydusd {command + ' ' if command else ''}[OPTIONS] {usage}".rstrip())
    if not command:
        lines += ["       nydusd <COMMAND>", "", "Commands:"]
        lines += [f"  {n:<10} {c.help}" for n, c in COMMANDS.items()]
    lines += ["", "Options:"]
    for flag in COMMANDS[name].flags:
        short = f"-{flag.short}, " if flag.short else "    "
        extra = f" [default: {flag.default}]" if flag.default is not None else ""
        extra += f" [possible values: {', '.join(flag.choices)}]" if flag.choices else ""
        lines += [f"  {short}--{flag.name}{f' <{flag.value}>' if flag.value else ''}", f"          {flag.help}{extra}"]
    lines += ["  -h, --help", "          Print help"]
    if not command:
        lines += ["  -V, --version", "          Print version", ""]
        lines.append("NYDUS_OVERRIDES='key=value …' in the environment is applied last; see nydus-run --help for the keys.")
    return "\n".join(lines)
