"""``shoal evaluate``: whole episodes with a trained policy."""

from __future__ import annotations

from pathlib import Path

from shoal.app.commands import command
from shoal.app.options import Parser, flag
from shoal.errors import ConfigError


def _options() -> Parser:
    parser = Parser(
        "shoal evaluate",
        "DIR [options]",
        "Run whole episodes with the policy of a run. The result also goes to evaluation.json in "
        "the run folder. Settings of how it acts are options: --simulations 0 of alphazero.",
    )
    parser.option("folder", metavar="DIR", help="run folder, or one checkpoint in it")
    command.best(parser)
    parser.option("--episodes", metavar="N", type=int, default=10, help="how many (default 10)")
    parser.option("--seed", metavar="N", type=int, help="episode i starts from seed N + i")
    parser.option("--explore", action="store_true", help="sample actions instead of the likeliest")
    parser.option("--video", metavar="FILE", type=Path, help="film the first: .mp4 or .gif")
    parser.option(
        "--video-episodes", metavar="N", type=int, default=3, help="how many to film (default 3)"
    )
    command.own_code(parser)
    return parser


def _run(parser: Parser, argv: list[str]) -> int:
    from shoal.app import folder as folders
    from shoal.evaluation import evaluate

    args, pairs = parser.read(argv)
    for name in ("episodes", "video_episodes"):
        if getattr(args, name) < 1:
            raise ConfigError(f"--{flag(name)} is {getattr(args, name)}", None, "run at least 1")
    if args.video is not None and args.video.suffix not in (".mp4", ".gif"):
        fix = f"--video {args.video.with_suffix('.mp4')}"
        raise ConfigError(f"--video is {args.video}, but is written as .mp4 or .gif", None, fix)
    found = command.trained(parser, args, pairs, 1_000_003)
    film = {"video": args.video, "video_episodes": args.video_episodes}
    result = evaluate(**found.arguments, max_agents=found.max_agents, **film)
    print(
        f"{found.title}: "
        f"return {result['return_mean']:.1f} +- {result['return_std']:.1f} "
        f"(min {result['return_min']:.1f}, max {result['return_max']:.1f}), "
        f"length {result['length_mean']:.1f} env steps"
    )
    if args.video is not None:
        print(f"video: {args.video}, {result['frames']:,} frames, {result['video_s']:.0f} s")
    if found.folder is not None:
        folders.write_json(found.folder / folders.EVALUATION, result | found.about)
    return 0


COMMAND = command.Command(
    "evaluate", "run episodes with a trained policy; film them", _options, _run
)
