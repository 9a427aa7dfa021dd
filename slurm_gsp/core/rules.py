"""The rules: one small function per fault, in the catalogue's order. One that cannot tell says nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from slurm_gsp.core.chips import has_gsp, open_only
from slurm_gsp.core.evidence import Gpu
from slurm_gsp.core.finding import Basis, Clue, Finding, Remedy
from slurm_gsp.core.reading import Absent, Known, Unknown, value_of
from slurm_gsp.core.version import branch
from slurm_gsp.core.view import (
    FOREIGN_DRIVERS,
    NEEDED_MODULES,
    ImageCheck,
    ImageState,
    Running,
    View,
    bus_ids,
)
from slurm_gsp.parse.kmsg import LogEvent
from slurm_gsp.parse.packages import Package, driver_version_of, is_core_package, is_driver_package

GSP_DEFAULT_SINCE = 510
"""First branch that runs GSP firmware by default, on some chips."""

NVML_MISMATCH = 18
NVML_LIBRARY_NOT_FOUND = 12
NVML_GPU_GONE = {15: "GPU is lost", 16: "GPU requires reset"}
BROKEN_STATES = ("half-installed", "unpacked", "half-configured")

Rule = Callable[[View], Finding | None]


def sb_refused(view: View) -> Finding | None:
    """The kernel refused the module's signature, and no nvidia.ko was loaded since."""
    if view.is_loaded is not False or not view.gpus:
        return None
    # A line that names no module is about another one when there is no nvidia.ko to refuse.
    unnamed = not isinstance(view.evidence.disk, Absent)
    refusals = [event for event in view.events_of("signature-refused") if _about_nvidia(event, unnamed)]
    if not refusals:
        return None
    clues = [*_log_clues(refusals)]
    if value_of(view.evidence.secure_boot):
        clues.append(Clue("Secure Boot is on", view.evidence.secure_boot.source))
    return Finding(
        "sb-refused",
        "the kernel refused the signature of the NVIDIA module",
        tuple(clues),
        Remedy.ROUTE_SIGNING,
        (("loaded", "none"),),
    )


def vbios(view: View) -> Finding | None:
    """FWSEC or VBIOS errors of a GPU that did not come up."""
    events = _of_failed_gpus(view, "vbios")
    if not events:
        return None
    return Finding(
        "vbios",
        f"board firmware (VBIOS/FWSEC) errors on {_where(events)}",
        _log_clues(events),
        Remedy.ESCALATE,
        _gpu_facts(events),
        Basis.LOG,
    )


def nouveau(view: View) -> Finding | None:
    """Another kernel driver holds the GPU."""
    taken = [gpu for gpu in view.gpus if value_of(gpu.driver) in FOREIGN_DRIVERS]
    if not taken:
        return None
    clues = tuple(
        Clue(f"{gpu.bus_id} is driven by {value_of(gpu.driver)}", gpu.driver.source) for gpu in taken
    )
    summary = f"{value_of(taken[0].driver)} drives {len(taken)} GPU(s)"
    return Finding("nouveau", summary, clues, Remedy.ROUTE_MODULES, (("gpus", str(len(taken))),))


def wrong_flavour(view: View) -> Finding | None:
    """The loaded (or refused) module is of the flavour that this GPU cannot run."""
    down = [gpu for gpu in view.gpus if view.running(gpu) in {Running.NOT, Running.UNKNOWN}]
    events = [event for event in view.since_load("needs-open", "needs-proprietary") if _concerns(event, down)]
    wrong = [gpu for gpu in down if _static_flavour_error(view, gpu)]
    if not events and not wrong:
        return None
    needed = _needed_flavour(view, events, wrong)
    clues = (
        *_log_clues(events),
        *(
            Clue(f"{gpu.bus_id} ({view.family(gpu)}) needs the {needed} module", "PCI device id")
            for gpu in wrong
        ),
    )
    return Finding(
        "wrong-flavour",
        f"the GPUs need the {needed} kernel module",
        clues,
        Remedy.ROUTE_FLAVOUR,
        (("have", view.flavour or "unknown"), ("need", needed)),
    )


def gpu_missing(view: View) -> Finding | None:
    """Fewer GPUs on PCI than the configuration or GRES promises."""
    pci, expected = view.evidence.pci, view.evidence.expected_gpus
    if not isinstance(pci, Known) or not isinstance(expected, Known):
        return None
    present = len(pci.value.gpus)
    if present >= expected.value:
        return None
    return Finding(
        "gpu-missing",
        f"{present} of {expected.value} expected GPUs are on PCI",
        (Clue(f"{present} display devices", pci.source), Clue(f"{expected.value} expected", expected.source)),
        Remedy.ROUTE_GPU_MISSING,
        (("pci", str(present)), ("expected", str(expected.value))),
    )


def umd_skew(view: View) -> Finding | None:
    """The library that the loader picks is not the loaded module's version; NVML 18 confirms."""
    refused = view.nvml is not None and view.nvml.init == NVML_MISMATCH
    if view.has_no_gpus or view.is_loaded is False or (view.loaded is None and not refused):
        return None
    loaded = view.loaded or "unknown"
    skewed = [pick for pick in view.picks if view.loaded is not None and pick.version != loaded]
    if not skewed and not refused:
        return None
    clues = [Clue(f"loaded nvidia.ko is {loaded}", view.evidence.loaded.source)]
    clues += [Clue(f"the loader picks {pick.soname} {pick.version}", pick.path) for pick in skewed]
    if refused:
        clues.append(Clue("nvmlInit returned 18: driver/library version mismatch", view.evidence.nvml.source))
    mismatches = view.since_load("api-mismatch")
    clues += _log_clues(mismatches[-1:])
    client = mismatches[-1].values[0] if mismatches else None
    userspace = skewed[0].version if skewed else client
    fact = ("umd", userspace) if userspace is not None else ("nvml", str(NVML_MISMATCH))
    return Finding(
        "umd-skew",
        f"userspace is {userspace or 'of another version'}, the loaded module {loaded}",
        tuple(clues),
        # Where every library that was found fits, the one that does not is not known: a reboot keeps it.
        _reboot_or_realign(view) if skewed else Remedy.REALIGN,
        (("kmd", loaded), fact, *_disk_fact(view)),
    )


def kmd_split(view: View) -> Finding | None:
    """The driver's modules are loaded at different versions, or one refused to join the others."""
    modules = value_of(view.evidence.modules) or ()
    if view.has_no_gpus:
        return None
    versions = [
        (name, version) for name, version in modules if name in NEEDED_MODULES and version is not None
    ]
    if len({version for _, version in versions}) > 1:
        clues = tuple(
            Clue(f"{name} is {version}", f"/sys/module/{name}/version") for name, version in versions
        )
        facts = tuple((_short(name), version) for name, version in versions)
        return Finding(
            "kmd-split", "the loaded modules are of several versions", clues, _reboot_or_realign(view), facts
        )
    loaded_names = {name for name, _ in modules}
    events = [
        event
        for event in view.since_load("module-split")
        if str(view.loaded) in event.values and event.values[2].replace("-", "_") not in loaded_names
    ]
    if not events:
        return None
    name, version = events[-1].values[2:4]
    return Finding(
        "kmd-split",
        f"{name} {version} refused to join nvidia.ko {view.loaded}",
        _log_clues(events[-1:]),
        _reboot_or_realign(view),
        (("kmd", str(view.loaded)), (_short(name), version)),
        Basis.LOG,
    )


def fw_missing(view: View) -> Finding | None:
    """No image on the kernel's search path that a GPU needs, and that GPU runs none."""
    return _image_fault(view, "fw-missing", ImageState.MISSING, "no GSP image for the loaded module")


def fw_skew(view: View) -> Finding | None:
    """The image is there and its ``.fwversion`` is another version."""
    return _image_fault(view, "fw-skew", ImageState.SKEWED, "the GSP image is of another version")


def fw_damaged(view: View) -> Finding | None:
    """The image is empty, truncated, not an ELF, or not signed for the chip."""
    return _image_fault(view, "fw-damaged", ImageState.DAMAGED, "the GSP image is unusable")


def gsp_skew(view: View) -> Finding | None:
    """The GSP version that runs is not the loaded module's."""
    loaded = view.loaded
    if loaded is None:
        return None
    running = [(gpu, view.gsp_version(gpu)) for gpu in view.gpus]
    skewed = [(gpu, version) for gpu, version in running if version is not None and version != loaded]
    if not skewed:
        return None
    clues = tuple(Clue(f"{gpu.bus_id} runs GSP {version}", gpu.information.source) for gpu, version in skewed)
    return Finding(
        "gsp-skew",
        f"GSP firmware {skewed[0][1]} runs under module {loaded}",
        (Clue(f"loaded nvidia.ko is {loaded}", view.evidence.loaded.source), *clues),
        _reboot_or_realign(view),
        (("kmd", loaded), ("gsp", str(skewed[0][1]))),
    )


def kmd_unbuilt(view: View) -> Finding | None:
    """GPUs on PCI, no module loaded, none on disk for the running kernel."""
    if not view.gpus or view.is_loaded is not False or not isinstance(view.evidence.disk, Absent):
        return None
    kernel = value_of(view.evidence.kernel) or "unknown"
    clues = [Clue(f"no nvidia module for {kernel}", view.evidence.disk.source)]
    clues += [
        Clue(
            f"dkms: {entry.module}/{entry.version} {entry.kernel or ''} {entry.state}".strip(), "dkms status"
        )
        for entry in value_of(view.evidence.dkms) or ()
        if entry.module.startswith("nvidia")
    ]
    return Finding(
        "kmd-unbuilt",
        f"no nvidia module is built for the running kernel {kernel}",
        tuple(clues),
        Remedy.REALIGN,
        (("kernel", kernel),),
    )


def kmd_unloaded(view: View) -> Finding | None:
    """A module is on disk for the running kernel and none is loaded, with no cause that hides behind it."""
    if not view.gpus or view.is_loaded is not False or not isinstance(view.evidence.disk, Known):
        return None
    if any(rule(view) for rule in (sb_refused, vbios, nouveau, wrong_flavour)):
        return None
    disk = view.evidence.disk.value
    return Finding(
        "kmd-unloaded",
        "a module is on disk for the running kernel, and none is loaded",
        (
            Clue(f"{disk.path} {disk.version or ''}".strip(), view.evidence.disk.source),
            Clue("nvidia is not loaded", view.evidence.loaded.source),
        ),
        Remedy.RELOAD,
        (("disk", disk.version or "unknown"), ("loaded", "none")),
    )


def fabric_skew(view: View) -> Finding | None:
    """NVSwitches present and the fabric manager is not the driver's version."""
    pci = value_of(view.evidence.pci)
    if pci is None or pci.nvswitches == 0 or view.loaded is None:
        return None
    manager = value_of(view.evidence.fabric_manager)
    refusals = [event for event in view.since_load("fabric-mismatch") if str(view.loaded) in event.values]
    if manager is not None and manager != view.loaded:
        clue = Clue(f"fabric manager is {manager}", view.evidence.fabric_manager.source)
        basis = Basis.STATE
    elif manager is None and refusals:
        manager, clue, basis = refusals[-1].values[0], Clue("the driver refused it", "kernel log"), Basis.LOG
    else:
        return None
    fits_disk = manager == view.disk_version and view.cured_by_reboot
    return Finding(
        "fabric-skew",
        f"fabric manager {manager}, driver {view.loaded}",
        (
            clue,
            *_log_clues(refusals[-1:]),
            Clue(f"loaded nvidia.ko is {view.loaded}", view.evidence.loaded.source),
        ),
        Remedy.REBOOT if fits_disk else Remedy.REALIGN,
        (("kmd", view.loaded), ("fm", manager)),
        basis,
    )


def gsp_timeout(view: View) -> Finding | None:
    """Xid 119 or 120 in this boot, and the driver was not started anew since."""
    events = [event for event in view.since_load("xid") if event.values[:1] in {("119",), ("120",)}]
    if not events:
        return None
    numbers = sorted({event.values[0] for event in events})
    return Finding(
        "gsp-timeout",
        f"Xid {', '.join(numbers)}: the GSP of {_where(events)} does not answer or reported an error",
        _log_clues(events[-3:]),
        Remedy.RELOAD,
        (("xid", numbers[0]), *_gpu_facts(events)),
        Basis.LOG,
    )


def gpu_lost(view: View) -> Finding | None:
    """A GPU failed to initialise for a cause that is neither firmware lookup nor version."""
    if view.nvml is not None and view.nvml.init in NVML_GPU_GONE:
        code = int(view.nvml.init)
        clue = Clue(f"nvmlInit returned {code}: {NVML_GPU_GONE[code]}", view.evidence.nvml.source)
        return Finding(
            "gpu-lost", NVML_GPU_GONE[code], (clue,), Remedy.RELOAD, (("nvml", str(code)),), Basis.PROBE
        )
    explained = _explained(view)
    down = [gpu for gpu in view.uninitialised() if gpu.bus_id not in explained]
    failed = view.since_load("init-failed", "wpr2")
    events = [event for event in failed if _concerns(event, down) and not _is_firmware_fetch(event)]
    # A GPU that fell off the bus stays gone until a reset, whatever the driver remembers of it.
    events += view.since_load("gpu-lost")
    unlisted = _unlisted(view, down)
    if not events and not unlisted:
        return None
    clues = _log_clues(events[-3:]) + tuple(
        Clue(f"{gpu.bus_id} is on PCI and no kernel driver holds it", gpu.driver.source)
        if view.is_unclaimed(gpu)
        else Clue(f"{gpu.bus_id}: NVML does not list it and it runs no GSP", view.evidence.nvml.source)
        for gpu in unlisted
    )
    facts = _gpu_facts(events) if events else (("gpu", unlisted[0].bus_id),)
    where = _where(events) if events else bus_ids(unlisted)
    # What the driver and NVML both deny is state; log lines alone have to repeat.
    basis = Basis.STATE if unlisted else Basis.LOG
    return Finding("gpu-lost", f"{where} failed to initialise", clues, Remedy.RELOAD, facts, basis)


def driver_hung(view: View) -> Finding | None:
    """The bounded NVML probe did not come back, or processes are stuck in the driver."""
    stuck = value_of(view.evidence.stuck) or ()
    if not view.hung and (view.nvml_works or not stuck):
        return None
    clues = [Clue(f"process {item.pid} ({item.name}) is stuck in {item.where}", "/proc") for item in stuck]
    facts = [("stuck", str(len(stuck)))] if stuck else []
    if view.hung:
        clues.insert(0, Clue("the NVML probe did not come back", view.evidence.nvml.source))
        facts.insert(0, ("nvml", "timeout"))
    return Finding(
        "driver-hung", "the driver does not answer", tuple(clues), Remedy.RELOAD, tuple(facts), Basis.PROBE
    )


def fw_interrupted(view: View) -> Finding | None:
    """The image load failed, the image is intact now, and the GPU stayed uninitialised."""
    gpus = list(_interrupted(view))
    if not gpus:
        return None
    events = [event for event in view.since_load("fw-load-failed", "no-fw-image") if _concerns(event, gpus)]
    errors = sorted({event.values[2] for event in events if event.kind == "fw-load-failed"})
    told = f" (error {', '.join(errors)})" if errors else ""
    return Finding(
        "fw-interrupted",
        f"the image load failed{told} and the image is intact: {bus_ids(gpus)}",
        _log_clues(events[-3:]),
        Remedy.RELOAD,
        (*(("error", error) for error in errors[:1]), ("gpu", gpus[0].bus_id)),
        Basis.LOG,
    )


def fw_gone(view: View) -> Finding | None:
    """The image of the loaded module is gone or bad while the GPUs still run theirs."""
    if view.loaded is None:
        return None
    checks = [(gpu, view.image(gpu, view.loaded)) for gpu in view.gpus if view.running(gpu) is Running.GSP]
    bad = [(gpu, check) for gpu, check in checks if check.state in _BAD_IMAGE]
    if not bad:
        return None
    # Without persistence the GPU is torn down when its last user leaves: the next open loads the image.
    off = [gpu for gpu, _ in bad if (seen := view.nvml_gpu(gpu)) is not None and seen.persistence is False]
    clues = [_image_clue(check) for _, check in bad[:1]]
    clues += [Clue(f"persistence mode is off on {bus_ids(off)}", view.evidence.nvml.source)] if off else []
    return Finding(
        "fw-gone",
        "the GPUs run their GSP firmware, and its image on disk is gone or bad",
        tuple(clues),
        _reboot_or_realign(view),
        (("kmd", view.loaded), ("image", bad[0][1].state.value)),
        urgent=bool(off),
    )


def reboot_pending(view: View) -> Finding | None:
    """The module on disk for this kernel is not the loaded one; userspace still is the loaded one's."""
    loaded, disk = view.loaded, view.disk_version
    if loaded is None or disk is None or disk == loaded or not view.gpus:
        return None
    if any(pick.version != loaded for pick in view.picks):
        return None
    pinned = view.evidence.pin.driver
    return Finding(
        "reboot-pending",
        f"{loaded} is loaded, {disk} is on disk",
        (
            Clue(f"loaded nvidia.ko is {loaded}", view.evidence.loaded.source),
            Clue(f"on disk: {disk}", view.evidence.disk.source),
        ),
        Remedy.REBOOT if pinned == disk and view.next_kernel_agrees(disk) else Remedy.REALIGN,
        (("kmd", loaded), ("disk", disk)),
    )


def next_kernel(view: View) -> Finding | None:
    """The kernel that boots next has no nvidia module, or one that the userspace does not fit."""
    kernel = value_of(view.evidence.next_kernel)
    if kernel is None or not view.gpus or isinstance(view.evidence.transaction, Known):
        return None
    runs_now = kernel == value_of(view.evidence.kernel)
    other = _unfit_next_module(view)
    if isinstance(view.evidence.next_disk, Absent):
        if view.is_loaded is False and runs_now:
            return None  # the running kernel lacks it already: that is kmd-unbuilt
        lacks = "no nvidia module"
    elif other is not None and not runs_now:
        lacks = f"nvidia module {other}, and userspace is of another version"
    else:
        return None
    return Finding(
        "next-kernel",
        f"{kernel} boots next and has {lacks}",
        (
            Clue(f"{kernel} boots next", view.evidence.next_kernel.source),
            Clue(lacks, view.evidence.next_disk.source),
            *(
                Clue(f"the loader picks {pick.soname} {pick.version}", pick.path)
                for pick in view.picks
                if other
            ),
        ),
        Remedy.REALIGN,
        (("kernel", kernel), *((("disk", other),) if other is not None else ())),
    )


def _unfit_next_module(view: View) -> str | None:
    """Version of the next kernel's module where a library that the loader picks is of another one."""
    module = value_of(view.evidence.next_disk)
    if module is None or module.version is None:
        return None
    return module.version if any(pick.version != module.version for pick in view.picks) else None


def pkg_split(view: View) -> Finding | None:
    """Two driver versions in the package database, or driver packages left half installed."""
    packages = value_of(view.evidence.packages)
    if packages is None or isinstance(view.evidence.transaction, Known) or view.has_no_gpus:
        return None
    broken = [item for item in packages if item.state in BROKEN_STATES and is_driver_package(item.name)]
    versions = _core_versions(packages)
    if not broken and len(versions) < 2:
        return None
    source = view.evidence.packages.source
    clues = [Clue(f"{item.name} {item.version} is {item.state}", source) for item in broken]
    clues += [Clue(f"{name} is {version}", source) for version, name in versions.items() if len(versions) > 1]
    facts = [("versions", "+".join(versions))] if len(versions) > 1 else []
    facts += [("broken", broken[0].name)] if broken else []
    branches = {branch(version) for version in versions}
    summary = f"the package database holds {len(branches)} driver branches" if len(branches) > 1 else ""
    summary = summary or (
        "driver packages are half installed" if broken else "driver packages are of two versions"
    )
    return Finding("pkg-split", summary, tuple(clues), Remedy.REALIGN, tuple(facts))


def umd_missing(view: View) -> Finding | None:
    """The loader knows no NVML library, and NVML could not be found either."""
    absent = isinstance(view.evidence.userspace.nvml, Absent)
    missing = view.nvml is not None and view.nvml.init == NVML_LIBRARY_NOT_FOUND
    if view.loaded is None or not (absent and missing) or view.driver_in_container:
        return None
    return Finding(
        "umd-missing",
        "the loader finds no libnvidia-ml.so.1",
        (
            Clue("not in the loader's cache", view.evidence.userspace.nvml.source),
            Clue("nvmlInit: library not found", view.evidence.nvml.source),
        ),
        Remedy.REALIGN,
        (("kmd", view.loaded), ("umd", "none")),
    )


def drift(view: View) -> Finding | None:
    """What runs is not what is pinned."""
    pin = view.evidence.pin
    if view.loaded is None or not view.gpus:
        return None
    facts, clues = [], []
    if pin.driver not in {None, view.loaded}:
        facts += [("kmd", view.loaded), ("pin", str(pin.driver))]
        clues.append(Clue(f"{view.loaded} is loaded, {pin.driver} is pinned", pin.source))
    if pin.flavour is not None and view.flavour not in {None, pin.flavour}:
        facts += [("have", str(view.flavour)), ("want", pin.flavour)]
        clues.append(Clue(f"the module is {view.flavour}, {pin.flavour} is pinned", pin.source))
    if not clues:
        return None
    if pin.driver is not None and pin.driver == view.disk_version and pin.flavour in {None, view.flavour}:
        return None  # the pinned module is on disk already: reboot-pending or umd-skew says what to do
    return Finding(
        "drift", "the node does not run what is pinned", tuple(clues), Remedy.REALIGN, tuple(facts)
    )


def gsp_off(view: View) -> Finding | None:
    """GSP is switched off by parameter on a chip that runs it by default."""
    if view.gsp_mode != 0 or branch(view.loaded or "") < GSP_DEFAULT_SINCE:
        return None
    capable = [
        gpu
        for gpu in view.gpus
        if (family := view.family(gpu)) is not None and has_gsp(family) and view.gsp_version(gpu) is None
    ]
    if not capable:
        return None
    return Finding(
        "gsp-off",
        "GSP firmware is switched off by NVreg_EnableGpuFirmware=0",
        (Clue("EnableGpuFirmware: 0", view.evidence.parameters.source),),
        Remedy.ROUTE_PARAMETER,
        (("EnableGpuFirmware", "0"),),
    )


RULES: tuple[Rule, ...] = (
    sb_refused,
    vbios,
    nouveau,
    wrong_flavour,
    gpu_missing,
    umd_skew,
    kmd_split,
    fw_missing,
    fw_skew,
    fw_damaged,
    gsp_skew,
    kmd_unbuilt,
    kmd_unloaded,
    fabric_skew,
    gsp_timeout,
    gpu_lost,
    driver_hung,
    fw_interrupted,
    fw_gone,
    reboot_pending,
    next_kernel,
    pkg_split,
    umd_missing,
    drift,
    gsp_off,
)
"""Every rule, in the order of the catalogue (a test compares the two)."""

_BAD_IMAGE = {ImageState.MISSING, ImageState.SKEWED, ImageState.DAMAGED}


def _reboot_or_realign(view: View) -> Remedy:
    """Reboot when what the next boot loads is one set and the pinned one, else realign."""
    return Remedy.REBOOT if view.cured_by_reboot else Remedy.REALIGN


def _image_fault(view: View, code: str, state: ImageState, summary: str) -> Finding | None:
    """The image rules share their shape: a GPU that is down, and what is wrong with its image."""
    if view.loaded is None:
        return None
    checks = [(gpu, _effective_check(view, gpu)) for gpu in view.uninitialised()]
    bad = [(gpu, check) for gpu, check in checks if check.state is state]
    if not bad:
        return None
    check = bad[0][1]
    gpus = [gpu for gpu, _ in bad]
    events = [
        event
        for event in view.since_load("fw-load-failed", "no-fw-image", "fw-version-refused", "init-failed")
        if _concerns(event, gpus)
    ]
    detail = {
        ImageState.MISSING: ("image", check.name),
        ImageState.SKEWED: ("image", check.why),
        ImageState.DAMAGED: ("why", check.why.partition(":")[0].replace(" ", "-")),
    }[state]
    basis = Basis.LOG if view.image(gpus[0], view.loaded).state is ImageState.UNREAD else Basis.STATE
    return Finding(
        code,
        f"{summary} (module {view.loaded}, image: {check.why})",
        (
            Clue(f"loaded nvidia.ko is {view.loaded}", view.evidence.loaded.source),
            _image_clue(check),
            Clue(f"not initialised: {bus_ids(gpus)}", "/proc/driver/nvidia/gpus"),
            *_log_clues(events[-2:]),
        ),
        Remedy.REALIGN,
        (("kmd", view.loaded), detail),
        basis,
    )


def _effective_check(view: View, gpu: Gpu) -> ImageCheck:
    """The image as it was read; where it could not be read, as the driver's own log line calls it."""
    assert view.loaded is not None
    check = view.image(gpu, view.loaded)
    if check.state in _BAD_IMAGE and not _image_is_needed(view, gpu):
        return ImageCheck(ImageState.NOT_NEEDED)
    if check.state is not ImageState.UNREAD:
        return check
    refused = [
        event
        for event in view.since_load("fw-version-refused")
        if _concerns(event, [gpu]) and event.values[1] == view.loaded
    ]
    if refused:
        return ImageCheck(ImageState.SKEWED, check.name, check.path, refused[-1].values[0])
    return check


def _image_is_needed(view: View, gpu: Gpu) -> bool:
    """By policy of the driver, or because its log says that it asked for the image and failed."""
    needed = view.needs_gsp(gpu)
    if needed is not None:
        return needed
    return any(
        _concerns(event, [gpu])
        for event in view.since_load("fw-load-failed", "no-fw-image", "fw-version-refused")
    )


def _interrupted(view: View) -> Iterable[Gpu]:
    """GPUs that are down after a failed image load although the image is intact."""
    if view.loaded is None:
        return
    for gpu in view.uninitialised():
        failed = [
            event
            for event in view.since_load("fw-load-failed", "init-failed")
            if event.gpu == gpu.bus_id and (event.values[0] == view.loaded or _is_firmware_fetch(event))
        ]
        if failed and view.image(gpu, view.loaded).state is ImageState.GOOD:
            yield gpu


def _explained(view: View) -> set[str]:
    """Bus ids of GPUs that are down for a cause with a rule of its own."""
    ids = {gpu.bus_id for gpu in _interrupted(view)}
    if view.loaded is not None:
        ids |= {gpu.bus_id for gpu in view.uninitialised() if _effective_check(view, gpu).state in _BAD_IMAGE}
    ids |= {gpu.bus_id for gpu in view.gpus if value_of(gpu.driver) in FOREIGN_DRIVERS}
    for event in view.since_load("vbios", "needs-open", "needs-proprietary"):
        ids |= {gpu.bus_id for gpu in view.gpus} if event.gpu is None else {event.gpu}
    return ids


def _unlisted(view: View, down: list[Gpu]) -> list[Gpu]:
    """GPUs that NVML denies and the driver has not started, on a node that keeps its GPUs started.

    A cgroup hides a GPU from NVML and not from the driver, but without persistence an idle GPU that is
    hidden looks the same as a broken one. A GPU that the driver did not even take is broken either way.
    """
    if view.loaded is None:
        return []
    persistent = view.nvml is not None and any(seen.persistence for seen in view.nvml.gpus)
    return [
        gpu
        for gpu in down
        if view.is_unclaimed(gpu)
        or (persistent and not isinstance(gpu.information, Unknown) and view.needs_gsp(gpu) is True)
    ]


def _is_firmware_fetch(event: LogEvent) -> bool:
    """RmInitAdapter 0x61:0x56: the image could not be fetched, which the image rules judge."""
    return event.kind == "init-failed" and event.values[:2] == ("0x61", "0x56")


def _concerns(event: LogEvent, gpus: Iterable[Gpu]) -> bool:
    """A line that names a GPU concerns that one; a line that names none concerns any."""
    ids = {gpu.bus_id for gpu in gpus}
    return bool(ids) and (event.gpu is None or event.gpu in ids)


def _of_failed_gpus(view: View, kind: str) -> list[LogEvent]:
    """Events of GPUs that are down, or of a node whose module did not load at all."""
    down = [gpu for gpu in view.gpus if view.running(gpu) in {Running.NOT, Running.UNKNOWN}]
    return [event for event in view.since_load(kind) if _concerns(event, down)]


def _about_nvidia(event: LogEvent, unnamed: bool) -> bool:
    name = event.values[0] if event.values else ""
    return name.startswith("nvidia") or (unnamed and name in {"", "modprobe"})


def _static_flavour_error(view: View, gpu: Gpu) -> bool:
    """A loaded module that cannot run this chip at all, whatever the log says."""
    family = view.family(gpu)
    if view.loaded is None or family is None or view.flavour is None:
        return False
    return (view.flavour == "open" and not has_gsp(family)) or (
        view.flavour == "proprietary" and open_only(family)
    )


def _needed_flavour(view: View, events: list[LogEvent], wrong: list[Gpu]) -> str:
    if events:
        return "open" if events[-1].kind == "needs-open" else "proprietary"
    family = view.family(wrong[0])
    return "open" if family is not None and has_gsp(family) else "proprietary"


def _core_versions(packages: Iterable[Package]) -> dict[str, str]:
    """Driver version -> the first core package that carries it, installed or broken, in order of name."""
    versions: dict[str, str] = {}
    present = ("installed", "triggers", *BROKEN_STATES)
    for package in sorted(packages, key=lambda item: item.name):
        version = driver_version_of(package)
        if version is not None and package.state in present and is_core_package(package.name):
            versions.setdefault(version, package.name)
    return versions


def _log_clues(events: Iterable[LogEvent]) -> tuple[Clue, ...]:
    return tuple(Clue(event.text, "kernel log") for event in events)


def _image_clue(check: ImageCheck) -> Clue:
    return Clue(f"{check.name}: {check.state.value}{f' ({check.why})' if check.why else ''}", check.path)


def _where(events: Iterable[LogEvent]) -> str:
    return ", ".join(sorted({event.gpu for event in events if event.gpu is not None})) or "a GPU"


def _gpu_facts(events: Iterable[LogEvent]) -> tuple[tuple[str, str], ...]:
    names = sorted({event.gpu for event in events if event.gpu is not None})
    return (("gpu", names[0]),) if names else ()


def _disk_fact(view: View) -> tuple[tuple[str, str], ...]:
    return (("disk", view.disk_version),) if view.disk_version is not None else ()


def _short(name: str) -> str:
    """nvidia_uvm -> uvm: the Reason has 120 characters."""
    return name.replace("-", "_").removeprefix("nvidia_") if name != "nvidia" else "kmd"
