"""What a campaign needs besides nodes: manifests of what the lab's repository offers, and an admin's side."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from slurm_gsp.lab import packages

OLD, NEW = "2026-10", "2026-11"
"""The manifest of what is installed, and the one after it."""
_PINS = {OLD: packages.INSTALLED, NEW: packages.UPDATE}
_CREATED = "2026-11-21T09:00:00Z"


def manifest_text(
    name: str,
    version: str,
    previous: str = "none",
    variants: Iterable[str] = ("h100",),
    downloads: Mapping[str, str] | None = None,
) -> str:
    """A manifest that pins one driver version, with a profile for each variant of nodes."""
    pins = "\n".join(
        f'"{package}" = "{packages.deb_version(version)}"'
        for package in packages.driver_package_names(version)
    )
    sums = "".join(f'"{file}" = "{digest}"\n' for file, digest in (downloads or {}).items())
    profiles = [
        f"""
[profile.{variant}]
gres = ["gpu:{variant}:2"]
driver = "{version}"
flavour = "open"
gpus = 2
fabric_manager = false
[profile.{variant}.packages.apt]
{pins}
{f"[profile.{variant}.downloads]{chr(10)}{sums}" if sums else ""}"""
        for variant in variants
    ]
    return f'name = "{name}"\nprevious = "{previous}"\ncreated = {_CREATED}\n' + "".join(profiles)


def prepare(manifests: Path, site: Path, conf: Path, variants: Iterable[str]) -> None:
    """Write the two manifests, and a configuration for campaigns that hurries."""
    variants = tuple(dict.fromkeys(variants))
    for name, previous in ((OLD, "none"), (NEW, OLD)):
        (manifests / f"{name}.toml").write_text(manifest_text(name, _PINS[name], previous, variants))
    site.mkdir(mode=0o755)
    config = site / "config.toml"
    config.write_text(f"""\
[slurm]
conf = "{conf}"

[realign]
manifest = "{manifests / f"{NEW}.toml"}"

[campaign]
ledger = "sqlite:///{site / "ledger.db"}"
poll_s = 1
return_s = 120
proof_s = 60
verify_s = 120
""")
    config.chmod(0o644)
