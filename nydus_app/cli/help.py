"""The text of `nydus-run --help`."""

from nydus_app.config.tree import GROUPS

TEXT = """\
nydus-run mounts a container image and fetches its data when somebody reads them.

Usage: nydus-run [KEY=VALUE …] [--dry-run] [--cfg job [--resolve]] [--config-dir DIR]

  nydus-run mode=fuse backend=localfs backend.dir=/blobs bootstrap=/blobs/app.boot mountpoint=/mnt
  nydus-run +recipe=no_cache backend.dir=/blobs bootstrap=/blobs/app.boot mountpoint=/mnt
  nydus-run backend=registry backend.host=reg.example backend.repo=app backend.auth='${{oc.env:AUTH}}' …

Choices (GROUP=OPTION):
{groups}

Keys that are used most (all of them: nydus-run … --cfg job):
  bootstrap               the image's metadata: a bootstrap, or a blob that carries one
  mountpoint              directory to mount on
  backend.dir             directory of the blobs (backend=localfs)
  cache.work_dir          where fetched data stay; root: /var/cache/nydus, others: ~/.cache/nydus
  cache.max_size          bytes that the cache may hold; the least recently read goes (no bound)
  cache.validate          compare every chunk with its digest (true)
  rafs.batch_size         bytes fetched around a small read, 0 for none (1 MiB)
  mode.threads            worker threads (4)
  mode.data_path          auto, erofs (the kernel serves files, we their blobs) or fuse (auto)
  mode.driver             who speaks FUSE: fusedev (we, on /dev/fuse) or pyfuse3 (libfuse) (fusedev)
  recording.save          file to write what the start reads to; BOOTSTRAP.recording is replayed by later starts
  prefetch.enable         fetch ahead: the image's list, prefetch_files=LIST, or prefetch.prefetch_all=true
  api.sock                Unix socket of the administration API (none)
  log.level, log.file     trace, debug, info, warn or error; standard error unless a file is named

Options:
  --dry-run               do all checks, mount nothing
  --cfg job [--resolve]   print the tree; --resolve fills in ${{…}}; secrets are masked
  --config-dir DIR        your own recipes: DIR/recipe/NAME.yaml, used by +recipe=NAME
  --info [WHAT]           how the tree is composed (defaults, searchpath, config …)
  -sc install=bash        shell completion: eval "$(nydus-run -sc install=bash)"; also zsh and fish
  --version, --help

Recipes: {recipes}

Quoting: the shell and the tree both read quotes. A value with = , ( {{ # or blanks, or one that must stay text,
is quoted for both: "backend.auth='abc=='".  NYDUS_OVERRIDES='key=value …' in the environment is applied last.

Exit status: 0 ended well · 1 could not start or was broken off · 2 the configuration is wrong; nothing was done
"""


def help_text(recipes: list[str]) -> str:
    groups = "\n".join(f"  {group:<10}{', '.join(options)}" for group, options in GROUPS.items())
    return TEXT.format(groups=groups, recipes=", ".join(recipes))
