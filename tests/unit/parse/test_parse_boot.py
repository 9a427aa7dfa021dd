import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import garbled, noisy

from slurm_gsp.parse.boot import grub_default, loader_entry, release_of_image

UBUNTU = """\
if [ -s $prefix/grubenv ]; then
  set have_grubenv=true
  load_env
fi
if [ "${next_entry}" ] ; then
   set default="${next_entry}"
   set next_entry=
   save_env next_entry
   set boot_once=true
else
   set default="DEFAULT"
fi
function savedefault {
  if [ -z "${boot_once}" ]; then
    saved_entry="${chosen}"
    save_env saved_entry
  fi
}
menuentry 'Ubuntu' --class ubuntu $menuentry_id_option 'gnulinux-simple-0a1b' {
	recordfail
	linux	/boot/vmlinuz-6.8.0-50-generic root=UUID=0a1b ro quiet
	initrd	/boot/initrd.img-6.8.0-50-generic
}
submenu 'Advanced options for Ubuntu' $menuentry_id_option 'gnulinux-advanced-0a1b' {
	menuentry 'Ubuntu, with Linux 6.8.0-50-generic' --class os $menuentry_id_option 'gnulinux-6.8.0-50-generic-advanced-0a1b' {
		linux	/boot/vmlinuz-6.8.0-50-generic root=UUID=0a1b ro quiet
	}
	menuentry 'Ubuntu, with Linux 6.8.0-50-generic (recovery mode)' $menuentry_id_option 'gnulinux-6.8.0-50-generic-recovery-0a1b' {
		linux	/boot/vmlinuz-6.8.0-50-generic root=UUID=0a1b ro recovery
	}
	menuentry 'Ubuntu, with Linux 6.8.0-49-generic' --class os $menuentry_id_option 'gnulinux-6.8.0-49-generic-advanced-0a1b' {
		linux	/boot/vmlinuz-6.8.0-49-generic root=UUID=0a1b ro quiet
	}
}
menuentry "Memory test (memtest86+x64.efi)" {
	linux	/boot/memtest86+x64.efi
}
menuentry 'UEFI Firmware Settings' $menuentry_id_option 'uefi-firmware' {
	fwsetup
}
"""  # noqa: E501
RHEL9 = """\
if [ "${next_entry}" ] ; then
   set default="${next_entry}"
   set boot_once=true
else
   set default="${saved_entry}"
fi
insmod blscfg
blscfg
"""
CENTOS7 = """\
   set default="${next_entry}"
   set default="${saved_entry}"
menuentry 'CentOS Linux (3.10.0-1160.el7.x86_64) 7 (Core)' --class centos $menuentry_id_option 'gnulinux-3.10.0-1160.el7.x86_64-advanced-0a1b' {
	linux16 /vmlinuz-3.10.0-1160.el7.x86_64 root=/dev/sda
}
menuentry 'CentOS Linux (0-rescue-c0ffee) 7 (Core)' --class centos $menuentry_id_option 'gnulinux-0-rescue-c0ffee-advanced-0a1b' {
	linux16 /vmlinuz-0-rescue-c0ffee root=/dev/sda
}
"""  # noqa: E501
ID = "0123456789abcdef0123456789abcdef"


def grubenv(**values):
    return "# GRUB Environment Block\n" + "".join(f"{k}={v}\n" for k, v in values.items()) + "#" * 900


@pytest.mark.parametrize(
    ("default", "values", "release"),
    [
        ("0", {}, "6.8.0-50-generic"),
        ("0", {"saved_entry": "1>2"}, "6.8.0-50-generic"),
        ("1>2", {}, "6.8.0-49-generic"),
        ("gnulinux-advanced-0a1b>gnulinux-6.8.0-49-generic-advanced-0a1b", {}, "6.8.0-49-generic"),
        ("Advanced options for Ubuntu>Ubuntu, with Linux 6.8.0-49-generic", {}, "6.8.0-49-generic"),
        ("${saved_entry}", {"saved_entry": "1>0"}, "6.8.0-50-generic"),
        ("${saved_entry}", {"saved_entry": "gnulinux-simple-0a1b"}, "6.8.0-50-generic"),
        ("${saved_entry}", {}, "6.8.0-50-generic"),
        ("${saved_entry}", {"saved_entry": "0", "next_entry": "1>2"}, "6.8.0-49-generic"),
        ("0", {"next_entry": "Advanced options for Ubuntu>2"}, "6.8.0-49-generic"),
        ("1", {}, None),  # a submenu
        ("2", {}, None),  # memtest
        ("3", {}, None),  # firmware settings
        ("9", {}, None),
        ("0>1", {}, None),
        ("1>", {}, None),
        ("an entry that is gone", {}, None),
        ("$other", {}, None),
    ],
)
def test_grub_with_a_menu(default, values, release):
    assert grub_default(grubenv(**values), UBUNTU.replace("DEFAULT", default)) == release


@pytest.mark.parametrize("cfg", [RHEL9, None])
@pytest.mark.parametrize(
    ("saved", "release"),
    [
        (f"{ID}-5.14.0-503.el9.x86_64", "5.14.0-503.el9.x86_64"),
        (f"{ID}-5.14.0-503.el9.x86_64+debug", "5.14.0-503.el9.x86_64+debug"),
        (f"{ID}-0-rescue", None),
        ("0", None),
        ("gnulinux-6.1.0-28-amd64-advanced-0a1b-22", "6.1.0-28-amd64"),
        ("gnulinux-advanced-0a1b>gnulinux-6.8.0-49-generic-recovery-0a1b", "6.8.0-49-generic"),
        ("Rocky Linux (5.14.0-503.el9.x86_64) 9.5 (Blue Onyx)", "5.14.0-503.el9.x86_64"),
        ("SLES 15-SP6, with Linux 6.4.0-150600.23.17-default", "6.4.0-150600.23.17-default"),
        ("gnulinux-simple-0a1b", None),
    ],
)
def test_grub_without_a_menu_goes_by_the_name(cfg, saved, release):
    assert grub_default(grubenv(saved_entry=saved, kernelopts="root=/dev/sda"), cfg) == release


def test_grub_of_centos_7():
    saved = "CentOS Linux (3.10.0-1160.el7.x86_64) 7 (Core)"
    assert grub_default(grubenv(saved_entry=saved), CENTOS7) == "3.10.0-1160.el7.x86_64"
    assert grub_default(grubenv(saved_entry="1"), CENTOS7) is None
    assert grub_default(None, CENTOS7) == "3.10.0-1160.el7.x86_64"


def test_grub_without_any_file():
    assert grub_default(None, None) is None
    assert grub_default("", "") is None


@pytest.mark.parametrize(
    ("path", "release"),
    [
        ("/boot/vmlinuz-6.1.0-28-amd64", "6.1.0-28-amd64"),
        ("vmlinuz-5.14.0-503.el9.x86_64", "5.14.0-503.el9.x86_64"),
        ("/boot/vmlinux-5.14.0-503.el9.ppc64le", "5.14.0-503.el9.ppc64le"),
        ("/boot/Image-6.4.0-150600.21-default", "6.4.0-150600.21-default"),
        (f"/{ID}/6.12.9-200.fc41.x86_64/linux", "6.12.9-200.fc41.x86_64"),
        (f"/{ID}/0-rescue/linux", None),
        (f"/boot/vmlinuz-0-rescue-{ID}", None),
        ("/boot/memtest86+x64.efi", None),
        ("/boot/vmlinuz", None),
        ("/boot/vmlinuz.old", None),
        ("linux", None),
        ("", None),
    ],
)
def test_kernel_images(path, release):
    assert release_of_image(path) == release


ENTRIES = {
    f"{ID}-6.8.0-9-generic.conf": "title Ubuntu\nversion 6.8.0-9-generic\nlinux /vmlinuz-6.8.0-9-generic\n",
    f"{ID}-6.8.0-50-generic.conf": f"title Ubuntu\nlinux /{ID}/6.8.0-50-generic/linux\ninitrd /x\n",
    f"{ID}-0-rescue.conf": f"title Rescue\nversion 0-rescue\nlinux /vmlinuz-0-rescue-{ID}\n",
    "uki.conf": "version 6.11.0\nefi /EFI/Linux/x.efi\n",
}


@pytest.mark.parametrize(
    ("default", "release"),
    [
        (f"{ID}-6.8.0-9-generic.conf", "6.8.0-9-generic"),
        (f"{ID}-6.8.0-50-generic", "6.8.0-50-generic"),
        (f"{ID}-*", "6.8.0-50-generic"),
        (f"{ID}-0-rescue", None),
        ("uki.conf", "6.11.0"),
        ("@saved", None),
        ("", None),
        ("gone.conf", None),
    ],
)
def test_boot_loader_entries(default, release):
    assert loader_entry(default, ENTRIES) == release


@given(st.none() | noisy([grubenv(saved_entry="1>2")]), st.none() | noisy([UBUNTU, RHEL9, CENTOS7]))
def test_any_files_give_a_release_or_none(environment, cfg):
    release = grub_default(environment, cfg)
    assert release is None or release[0].isdigit()


@given(st.text(max_size=30) | garbled([f"{ID}-*", "[a-", "*" * 40]), noisy(list(ENTRIES.values())), st.text())
def test_any_entry_gives_a_release_or_none(default, text, path):
    loader_entry(default, {**ENTRIES, default: text})
    release_of_image(path)


def test_a_hostile_menu_costs_no_more_than_its_length():
    for text in ("menuentry " + "a" * 200_000, "\n" * 200_000, "menuentry ' {\n" * 20_000, "{ " * 100_000):
        grub_default(None, 'set default="0"\n' + text)
