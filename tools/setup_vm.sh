#!/usr/bin/env bash
# Provide what `make vm-test` boots: QEMU's emulator, installed, and Debian's kernel, busybox,
# e2fsprogs and RocksDB's db_bench with their libraries, which are unpacked into .cache/vm and
# not installed. Downloads about 40 MB.
set -euo pipefail

into=.cache/vm
root="$into/root"
if ! command -v apt-get >/dev/null; then
    echo "setup-vm: needs apt-get, for packages of Debian, and there is none here" >&2
    exit 1
fi
if ! command -v qemu-system-x86_64 >/dev/null; then
    if [[ "$(id -u)" -ne 0 ]]; then
        echo "setup-vm: needs root to install qemu-system-x86; run" \
            "\`sudo make setup-vm\` or install it yourself" >&2
        exit 1
    fi
    echo "setup-vm: installing qemu-system-x86"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update --quiet --quiet
    apt-get install --yes --quiet --quiet --no-install-recommends qemu-system-x86
fi
if [[ -d "$root" ]]; then
    echo "setup-vm: $root is there"
    exit 0
fi

# The packages that these depend on, all the way down; of the kernel only its image.
depends() {
    apt-cache depends --no-recommends --no-suggests --no-conflicts --no-breaks --no-replaces \
        --no-enhances "$@"
}
mapfile -t packages < <(depends --recurse rocksdb-tools e2fsprogs busybox-static | grep '^[a-z]')
packages+=("$(depends linux-image-cloud-amd64 | grep -om1 'linux-image-[0-9].*')")
echo "setup-vm: unpacking ${#packages[@]} packages into $root"
rm -rf "$into"
mkdir -p "$into/packages" "$root.new"/usr/{bin,sbin,lib,lib64}
# Where each package's files lie differs between releases of Debian: merge them.
for directory in bin sbin lib lib64; do
    ln -s "usr/$directory" "$root.new/$directory"
done
# As root, apt would download as a user that may not write here.
(cd "$into/packages" && apt-get -o APT::Sandbox::User=root --quiet --quiet download "${packages[@]}")
for package in "$into"/packages/*.deb; do
    dpkg-deb --fsys-tarfile "$package" |
        tar --extract --keep-directory-symlink --no-same-owner --directory "$root.new"
done
"$root.new/bin/busybox" depmod -b "$PWD/$root.new" "$(ls "$root.new/lib/modules")"
rm -r "$into/packages"
mv "$root.new" "$root"
