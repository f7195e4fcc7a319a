"""The text of `nydus-bench --help`."""

from nydus_app.bench.rows import ROWS
from nydus_app.config.tree import GROUPS

TEXT = """\
nydus-bench measures how fast an image is served, and shows who else stands where.

Usage: nydus-bench [bench=ROW] [KEY=VALUE …] [-m] [--dry-run] [--cfg job [--resolve]] [--config-dir DIR]

  nydus-bench bench=cold_small backend.dir=/blobs bootstrap=/blobs/app.boot
  nydus-bench bench.peer=/usr/bin/nydusd bench.tree=/rootfs bench.erofs=/rootfs.erofs backend.dir=… bootstrap=…
  nydus-bench -m mode.data_path=fuse,erofs cache.validate=true,false bench=cold_small backend.dir=… bootstrap=…
  nydus-bench -m bench=health bench.check=/bin/true bench.blobs=/blobs bench.network=near,far backend=registry bootstrap=…
  nydus-bench +sweep=windows backend.dir=/blobs bootstrap=/blobs/app.boot

Every mount is a daemon of its own with an empty cache directory. Rounds are interleaved; a figure is the median of all
rounds, with half the way from the lowest to the highest beside it. As root the page cache is dropped before cold rows.

Rows (bench=ROW; bench=all, all but health, is the default; bench.rows='[start,stat]' takes some):
{rows}

Keys (those of nydus-run as well, but mountpoint and cache.work_dir: nydus-run --help):
  bench.rounds            how often everything is measured (5)
  bench.seconds           length of a warm row (1.0)
  bench.check             the command of the health row, run in the image by chroot
  bench.blobs             directory of blobs that an origin of our own serves to the backend, whichever it is
  bench.network           near, far (20 ms an answer) or narrow (5 ms, 200 Mbit/s): what lies before that origin (near)
  bench.port              its port on 127.0.0.1 (5170)
  bench.big_file          path in the image; its largest regular file
  bench.small_limit       bytes; small files are not larger (65536)
  bench.program           nydusd or nydus_run: which command line mounts ours (nydusd)
  bench.peer              a nydusd, measured beside ours with the same flags and configuration
  bench.tree              the image's content as a directory, measured beside ours
  bench.erofs             the image's content as an EROFS image, mounted by the kernel alone
  bench.work_dir          mounts and caches are made here and removed: all of them on one disk (/var/tmp)
  bench.timeout           seconds that one figure may take (600)
  bench.output            where results go (bench-results/<time>)
  bench.formats           csv, json, png, svg: what is written there (all)
  bench.report            a Markdown page, written from this and earlier results beside it

Choices (GROUP=OPTION):
{groups}

Sweeps: -m takes several values a key (a,b or range(1,4)) and measures all combinations, joined into one table, CSV,
JSON and pictures. A peer is measured once where several settings are the same to it.
  +sweep=NAME             a checked-in sweep: {sweeps}
  hydra/launcher=joblib   another launcher; joblib, submitit_local, submitit_slurm and ray come as extras of nydus-app.
                          One host measures one job at a time: the others wait.

Options:
  --dry-run               do all checks, list the jobs, measure nothing
  --cfg job [--resolve]   print the tree; --resolve fills in ${{…}}; secrets are masked
  --config-dir DIR        your own recipes: DIR/recipe/NAME.yaml and DIR/sweep/NAME.yaml
  --version, --help

Needs a C compiler (the measuring stick is compiled on first use); pictures need matplotlib: pip install 'nydus-app[bench]'.

Exit status: 0 measured · 1 something could not be measured · 2 the configuration is wrong; nothing was done
"""


def help_text(sweeps: list[str]) -> str:
    return TEXT.format(
        rows="\n".join(f"  {row.name:<12}{kind.title}, {kind.unit}" for row, kind in ROWS.items()),
        groups="\n".join(f"  {group:<10}{', '.join(options)}" for group, options in GROUPS.items()),
        sweeps=", ".join(sweeps),
    )
