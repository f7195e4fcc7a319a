"""The tree by Hydra: compose, compare with the schema, and say in one line what is wrong.

Composing is done by Hydra's compose API and not inside of `hydra.main`, because the latter prints
every override in clear when a job fails, and makes directories.
"""

import re
from collections.abc import Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override as HydraOverride
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from nydus_app.config.check import MISSING_LOCALFS
from nydus_app.config.masking import MASK, holds_secret, is_reference, is_secret, mask
from nydus_app.config.overrides import nearest
from nydus_app.config.quoting import quote
from nydus_app.config.registration import RUN, SECTIONS, Application, register
from nydus_app.config.tree import GROUPS, Tree
from nydus_app.errors import ConfigError


def recipes(group: str = "recipe") -> list[str]:
    """Names of the recipes that are installed with the package."""
    folder = resources.files("nydus_app.recipes") / group
    return sorted(p.name.removesuffix(".yaml") for p in folder.iterdir() if p.name.endswith(".yaml"))


def sweep_purpose(name: str, config_dir: str | None) -> str:
    """What a sweep is for: the second line of its file, a comment; empty where there is none."""
    own = Path(config_dir or "/nonexistent") / "sweep" / f"{name}.yaml"
    installed = resources.files("nydus_app.recipes") / "sweep" / f"{name}.yaml"
    found = next((f for f in (own, installed) if f.is_file()), None)
    lines = found.read_text(encoding="utf-8").splitlines() if found else []
    return lines[1].lstrip("# ") if len(lines) > 1 and lines[1].startswith("#") else ""


def compose_config(
    words: Sequence[str], config_dir: str | None = None, app: Application = RUN, *, with_hydra: bool = False
) -> DictConfig:
    """The configuration for override words; `with_hydra` adds Hydra's own node. Raises ConfigError."""
    register()
    for word in words:
        _check_word(word, app)
    search = [f"searchpath=[pkg://nydus_app.recipes,{quote('file://' + config_dir)}]"] if config_dir else []
    GlobalHydra.instance().clear()
    try:
        with initialize_config_module("nydus_app.conf", version_base=None):
            words_for_hydra = [*words, *(f"hydra.{s}" for s in search)]
            return compose(app.primary, overrides=words_for_hydra, return_hydra_config=with_hydra)
    except (HydraException, OmegaConfBaseException, YAMLError) as e:
        raise ConfigError(explain(e, words, app)) from None


def to_tree(config: DictConfig, app: Application = RUN) -> Tree:
    """The plain tree. Raises ConfigError with all missing keys, or what does not resolve."""
    try:
        _name_origin(config, app)
        order = {key: place for place, key in enumerate(_keys(app.schema()))}
        missing = sorted(OmegaConf.missing_keys(config), key=lambda key: order.get(key, len(order)))
        if missing:
            missing += _missing_localfs(config)
            raise ConfigError(f"missing: {', '.join(missing)} ({app.name} --help shows examples)")
        tree = OmegaConf.to_object(config)
    except OmegaConfBaseException as e:
        raise ConfigError(explain(e, (), app)) from None
    assert isinstance(tree, Tree)
    return tree


def _name_origin(config: DictConfig, app: Application) -> None:
    """Where nydus-bench serves the blobs itself (`bench_origin.at_origin`), nobody has to say where they are."""
    if app.launches and config.bench.get("blobs") is not None:
        for key in OmegaConf.missing_keys(config):
            if key.startswith("backend."):
                OmegaConf.update(config, key, "bench")


def _missing_localfs(config: DictConfig) -> list[str]:
    """localfs wants one of two keys, so neither can be marked as missing by itself."""
    unnamed = config.backend.get("dir", "x") == config.backend.get("blob_file", "x") == ""
    return [MISSING_LOCALFS] if unnamed else []


def printed(config: DictConfig, *, resolve: bool) -> str:
    """The tree as YAML, secrets masked; references stay unless `resolve`."""
    try:
        plain = OmegaConf.to_container(config, resolve=resolve, enum_to_str=True)
    except OmegaConfBaseException as e:
        raise ConfigError(explain(e, ())) from None
    return OmegaConf.to_yaml(OmegaConf.create(mask(plain)))


def masked_words(words: Sequence[str], config: DictConfig, app: Application = RUN) -> list[str]:
    """Override words fit to be printed by Hydra itself, whatever recipes put into `config`."""
    shown = []
    for word in words:
        key = word.partition("=")[0]
        value = None if key.startswith("+") or "/" in key or key in app.choices else _parse(word, app).value()
        masked = mask(value, tuple(key.split(".")))
        shown.append(word if masked == value else f"{key}={quote(masked)}")
    return [*shown, *_masking(OmegaConf.to_container(config, enum_to_str=True), ())]


def _masking(node: Any, path: tuple[str, ...]) -> Iterator[str]:
    """Overrides that put the mask in place of every secret below `node`."""
    if isinstance(node, dict):
        for name, value in node.items():
            yield from _masking(value, (*path, str(name)))
    elif is_reference(node):
        if is_secret(path):
            yield f"{'.'.join(path)}='{MASK}'"
    elif (masked := mask(node, path)) != node:
        yield f"{'.'.join(path)}={quote(masked)}"


def shown_matches(matches: Sequence[str]) -> list[str]:
    """Hydra's completions as a person writes them: `log.level=info` for `log.level=LogLevel.info`."""
    found = [re.sub(r"=[A-Z]\w*\.(\w+)\Z", r"=\1", m) for m in matches]
    return [m for m in found if not re.search(r"[/=]base_", m)]


# ---- before composing ---------------------------------------------------------------------------


def _check_word(word: str, app: Application) -> None:
    key, equals, value = word.partition("=")
    name = key.lstrip("+~")
    if not name:
        raise ConfigError(f"{key or '='}: key=value is wanted")
    if key.startswith("+") and name in app.recipe_groups and not key.startswith("++"):
        return
    if key.startswith("~"):
        raise ConfigError(f"{key}: keys cannot be removed; set a value: {name}=…")
    if key.startswith("+"):
        raise ConfigError(f"{key}: keys cannot be added; {_advice_for(name, app)}")
    if not equals:
        raise ConfigError(f"{word}: key=value is wanted{nearest(word, _options())}")
    if name in app.recipe_groups:
        raise ConfigError(f"{name}: write +{name}={value}")
    if re.match(r"hydra[./]", name) and not (app.launches and re.match(r"hydra[./]launcher\b", name)):
        raise ConfigError(f"{key}: Hydra's own settings are fixed{' (but hydra/launcher)' if app.launches else ''}")
    value = _parse(word, app).value()
    if name in (*app.choices, *SECTIONS) and (value is None or str(value).startswith("base_")):
        raise ConfigError(f"{word}: no such choice (one of {', '.join(app.choices.get(name, ['default']))})")


def _options() -> list[str]:
    return ["--dry-run", "--cfg", "--resolve", "--config-dir", "--info", "--help", "--version"]


def _advice_for(name: str, app: Application) -> str:
    known = _keys(app.schema())
    if name in known:
        return f"it is there already, write {name}=…"
    return f"`{name}` is none of the tree{nearest(name, known)}"


def expand_word(word: str) -> list[str]:
    """The words that a sweep over `key=a,b` or `key=range(3)` tries; a plain word is one."""
    key, equals, _ = word.partition("=")
    if not equals:
        return [word]
    try:
        override = OverridesParser.create().parse_override(word)
    except HydraException:
        raise ConfigError(_quoting_advice(key)) from None
    if not override.is_sweep_override():
        return [word]
    if not override.is_discrete_sweep():
        raise ConfigError(f"{key}: an interval has no end of values; choices are written a,b and range(1,4)")
    return [f"{key}={value}" for value in override.sweep_string_iterator()]


def _parse(word: str, app: Application = RUN) -> HydraOverride:
    key = word.partition("=")[0]
    try:
        override = OverridesParser.create().parse_override(word)
    except HydraException:
        raise ConfigError(_quoting_advice(key)) from None
    if override.is_sweep_override():
        advice = "which -m asks for" if app.launches else "which nydus-bench does"
        raise ConfigError(f"{key}: several values are a sweep, {advice}; a list is written [a,b]")
    if override.value() == "???":
        raise ConfigError(f"{key}: ??? stands for a missing value")
    return override


def _quoting_advice(key: str) -> str:
    return f"{key}: the value has characters that need quotes, for the shell and for the tree: \"{key}='…'\""


# ---- after a failure ----------------------------------------------------------------------------


def explain(error: BaseException, words: Sequence[str], app: Application = RUN) -> str:
    """One line: the full key, what is legal, the nearest right name; never the value of a secret."""
    if isinstance(error, MissingConfigException):
        return _explain_choice(error, app)
    if isinstance(error, OverrideParseException):
        return _quoting_advice(error.override.partition("=")[0])
    inner = next((e for e in _causes(error) if isinstance(e, OmegaConfBaseException)), None)
    if inner is not None and inner.full_key:
        return _explain_value(inner, words)
    text = " ".join(str(inner or error).split())
    if match := re.match(r"Could not override '([^']+)'", text):
        return f"{match[1]}: no such key{nearest(match[1], [*app.choices, *SECTIONS, *_keys(app.schema())])}"
    if match := re.match(r"Multiple values for ([^.]+)\.", text):
        return f"{match[1]}: it is chosen twice"
    return text


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _explain_choice(error: MissingConfigException, app: Application) -> str:
    name = error.missing_cfg_file or ""
    group, _, choice = name.rpartition("/")
    options = [o for o in error.options or [] if not o.startswith("base_")] or app.choices.get(group, [])
    if group in app.recipe_groups:
        options = sorted({*options, *recipes(group)})
    if group == "hydra/launcher":
        return f"{group}={choice}: it is not installed; nydus-app[bench] brings joblib, [submitit] and [ray] theirs"
    if not options:
        return f"{group or name}={choice}: no such choice{nearest(group, app.choices)}"
    return f"{group}={choice}: no such choice{nearest(choice, options)} (one of {', '.join(options)})"


def _explain_value(error: OmegaConfBaseException, words: Sequence[str]) -> str:
    key = str(error.full_key)
    first = str(error.msg or error).splitlines()[0]
    if "is not in struct" in first or re.search(r"Key '.*' not in '", first) or "not in" in first:
        prefix, _, last = key.rpartition(".")
        known = [str(k) for k in error.parent_node] if isinstance(error.parent_node, DictConfig) else []
        return f"{key}: no such key{nearest(last, known, prefix + '.' if prefix else '')}" + (
            f" (one of {', '.join(known)})" if known and not nearest(last, known) else ""
        )
    if match := re.search(r"Environment variable '([^']+)' not found", first):
        return f"{key}: the environment variable {match[1]} is not set"
    shown = _given(key, words)
    if holds_secret(tuple(re.sub(r"\[\d+\]", "", key).split(".")), shown):
        shown = ""
    if match := re.search(r"expected one of \[(.*)\]", first):
        names = match[1].replace(" ", "").split(",")
        return f"{key}{shown}: one of {', '.join(names)} is wanted{nearest(shown[1:], names)}"
    for mark, wanted in (
        ("Integer", "a whole number"),
        ("could not be converted to Bool", "true or false"),
        ("not a valid bool", "true or false"),
        ("is not Optional", "a value"),
        ("Incompatible value", "a value"),
        ("to string", "a text"),
        ("ListConfig", "a list, such as ['a','b'],"),
        ("list", "a list, such as ['a','b'],"),
        ("DictConfig", "a dictionary"),
    ):
        if mark in first:
            return f"{key}{shown}: {wanted} is wanted"
    return f"{key}: {first}" if not is_secret(tuple(key.split("."))) else f"{key}: a wrong value"


def _given(key: str, words: Sequence[str]) -> str:
    return next((f"={w.partition('=')[2]}" for w in reversed(words) if w.partition("=")[0] == key), "")


def _keys(node: Any, prefix: str = "") -> list[str]:
    """Full keys of a section, with those of every choice of the groups at the top."""
    found = []
    for name in node.__dataclass_fields__:
        found.append(prefix + name)
        value = getattr(node, name)
        if hasattr(value, "__dataclass_fields__"):
            found += _keys(value, f"{prefix}{name}.")
    if not prefix:
        for group, options in GROUPS.items():
            for schema in options.values():
                found += [k for k in _keys(schema(), f"{group}.") if k not in found]
    return found


