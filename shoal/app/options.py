"""Reads a command line: argparse for the fixed options, the resolver for all settings."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NoReturn

from shoal.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from shoal.config.config import Config

Pairs = list[tuple[str, str | None]]  # settings as given: [("algorithm.lr", "1e-3")]


class Parser(argparse.ArgumentParser):
    """An argparse parser that raises ConfigError and knows which options take a value."""

    def __init__(self, prog: str, usage: str, about: str) -> None:
        self.takes: dict[str, bool] = {}
        self._shown: dict[str, list[tuple[str, str, bool]]] = {}  # by group: names, help, rare
        super().__init__(prog, f"{prog} {usage}", about, allow_abbrev=False, add_help=False)

    def option(self, *names: str, group: str = "", rare: bool = False, **kwargs: Any) -> None:
        """Like ``add_argument``; also records whether the option takes a value.

        Help shows it under the title ``group``; one that is ``rare`` only in `--help-all`.
        """
        action = self.add_argument(*names, **kwargs)
        self.takes |= dict.fromkeys(action.option_strings, action.nargs != 0)
        shown = " ".join([", ".join(action.option_strings), str(action.metavar or "")]).strip()
        self._shown.setdefault(group, []).append((shown, str(action.help or ""), rare))

    def help(self, everything: bool, more: bool) -> str:
        """Options by group, without the rare ones unless ``everything`` is asked for.

        ``more``: the command has more to show if everything is.
        """
        import shutil
        import textwrap

        width = min(shutil.get_terminal_size((100, 24)).columns, 100)
        kept = {
            group: [(a, b) for a, b, rare in rows if everything or not rare]
            for group, rows in self._shown.items()
        }
        first = min(max((len(a) for rows in kept.values() for a, _ in rows), default=0), 26) + 4
        lines = [f"usage: {self.usage}", *textwrap.wrap(str(self.description), width)]
        for group, rows in kept.items():
            lines += ["", *([f"{group}:"] if group else [])] if rows else []
            for name, about in rows:
                told = textwrap.wrap(about, width - first) or [""]
                lines.append(
                    f"  {name}".ljust(first) + told[0] if len(name) < first - 2 else f"  {name}"
                )
                lines += [" " * first + x for x in (told if len(name) >= first - 2 else told[1:])]
        hidden = any(rare for rows in self._shown.values() for *_, rare in rows)
        if not everything and (hidden or more):
            lines += [
                "",
                f"`{self.prog} --help-all` has all options{' and settings' if more else ''}.",
            ]
        return "\n".join(lines)

    def error(self, message: str) -> NoReturn:
        raise ConfigError(message, None, f"`{self.prog} --help-all` shows what it takes")

    def read(self, argv: list[str], settings: bool = True) -> tuple[argparse.Namespace, Pairs]:
        """The fixed options, and all others as settings.

        They are separated before argparse sees them: it would take the value of an unknown option
        for the environment. Raises ConfigError for a line that cannot be read, and for any setting
        if the command has none.
        """
        fixed, pairs, rest = [], [], list(argv)
        while rest:
            token = rest.pop(0)
            name, equals, value = token.partition("=")
            if not token.startswith("--") or token == "--" or self.takes.get(name) is False:
                fixed.append(token)
                continue
            if not equals and rest and not rest[0].startswith("--"):
                equals, value = "=", rest.pop(0)
            if name in self.takes:
                fixed.append(name + equals + value)
            else:
                pairs.append((name[2:], value if equals else None))
        if pairs and not settings:
            raise self.unknown(pairs[0][0])
        return self.parse_args(fixed), pairs

    def unknown(
        self, name: str, config: Config | None = None, also: Iterable[str] = ()
    ) -> ConfigError:
        """The error for an option that is neither fixed nor a setting of this configuration.

        ``also`` are names of other options.
        """
        from shoal.config.names import SHORT
        from shoal.config.settings import arguments, elsewhere

        known = [option[2:] for option in self.takes if option.startswith("--")]
        known += map(flag, also)
        meant = None
        if config is not None:
            short = {path: name for name, path in SHORT.items()}
            meant = elsewhere(config, name)
            meant = None if meant is None else flag(short.get(meant, meant))
            known += [flag(argument.name) for argument in arguments(config)]
        what, listing = f"there is no option --{name}", f"{self.prog} --help-all"
        return unknown(what, meant or name, known, listing, "--")


def unknown(what: str, name: str, known: list[str], listing: str, prefix: str = "") -> ConfigError:
    """The error for an unknown word; it suggests the nearest of the known ones."""
    hint = did_you_mean(name, known, prefix)
    return ConfigError(what, None, f"{hint}`{listing}` lists them all")


def flag(path: str) -> str:
    """A setting's name as an option: algorithm.lambda_ is algorithm.lambda."""
    return path.rstrip("_").replace("_", "-")


def settings(
    parser: Parser, args: argparse.Namespace, pairs: Pairs, config: Config
) -> dict[str, str]:
    """Options and settings, by the paths of the settings that they mean.

    Raises ConfigError for a setting that does not exist, has no value, or is given twice.
    """
    from shoal.config.names import SHORT
    from shoal.config.settings import arguments, find

    known = {a.name: a for a in arguments(config) if a.name not in ("system", "env")}
    fixed = [(SHORT[k], x) for k, x in vars(args).items() if k in SHORT and x is not None]
    found: dict[str, str] = {}
    for name, value in [*fixed, *pairs]:
        path = find(config, name)
        if path not in known:
            raise parser.unknown(name, config)
        if path in found:
            short = next((k for k, x in SHORT.items() if x == path), None)
            also = f" (--{flag(short)} is the same)" if short else ""
            raise ConfigError(f"--{name} is given twice{also}", None, "give it once")
        accepted = known[path].annotation
        if value is None and "true" not in accepted:
            raise ConfigError(f"--{name} needs a value", None, f"it accepts: {accepted}")
        found[path] = "true" if value is None else value
    return found


def settings_help(system: str) -> str:
    """Every setting that a system reads, one per line: name, default, meaning, accepted values."""
    from shoal.config.names import SHORT
    from shoal.config.settings import arguments, to_dict
    from shoal.systems.table import default_config, reads

    config = default_config(system, "")
    left_out = {"system", "env", *SHORT.values()}
    rows: list[tuple[str, str, str]] = []
    for name, annotation, default, about in arguments(config):
        if name not in left_out and reads(config, name):
            rows.append((flag(name), text(to_dict(default)), f"{about}  [{annotation}]".strip()))
    a_width, b_width = (max(len(row[i]) for row in rows) for i in (0, 1))
    lines = [f"settings of {config.system}, with their defaults (other systems: --system NAME):"]
    return "\n".join(lines + [f"  --{a:<{a_width}}  {b:<{b_width}}  {c}" for a, b, c in rows])


def text(value: Any) -> str:
    """A value as one would type it."""
    if isinstance(value, list):
        return ",".join(map(text, value))
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)
