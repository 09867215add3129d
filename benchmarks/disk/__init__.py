"""Chains of qcow2 images, beside QEMU's own tools."""
