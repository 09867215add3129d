// Thin binding: parses, validates, releases the GIL, calls the kernels.
#include <Python.h>
#include <nanobind/nanobind.h>

#include "base/buffers.hpp"
#include "clusters.hpp"

namespace hatchway {
namespace {

constexpr int kAbiVersion = 1;

void gather_clusters(nb::object sources, nb::object target, nb::object crcs) {
    const ReadableBuffer from(sources);
    const WritableBuffer into(target), sums(crcs);
    const std::size_t num = from.nbytes() / sizeof(Source);
    const auto *listed = static_cast<const Source *>(from.data());
    if (from.nbytes() != num * sizeof(Source) || into.nbytes() < num * kClusterBytes ||
        sums.nbytes() != num * sizeof(std::uint32_t))
        throw nb::value_error("sources, target and checksums do not fit together");
    for (std::size_t i = 0; i < num; ++i)
        if (!fits(listed[i])) throw nb::value_error("a source does not fit into a cluster");
    nb::gil_scoped_release release;
    gather(listed, num, static_cast<std::uint8_t *>(into.data()),
           static_cast<std::uint32_t *>(sums.data()));
}

void sum_clusters(nb::object data, nb::object crcs) {
    const ReadableBuffer from(data);
    const WritableBuffer sums(crcs);
    const std::size_t num = sums.nbytes() / sizeof(std::uint32_t);
    if (from.nbytes() != num * kClusterBytes || sums.nbytes() != num * sizeof(std::uint32_t))
        throw nb::value_error("data and checksums do not fit together");
    nb::gil_scoped_release release;
    checksums(static_cast<const std::uint8_t *>(from.data()), num,
              static_cast<std::uint32_t *>(sums.data()));
}

}  // namespace

NB_MODULE(_native, m) {
    m.doc() = "Kernels of hatchway.checkpoint.";
    m.def("abi_version", [] { return kAbiVersion; }, "Compared when it is loaded.");
    m.def("gather", &gather_clusters, nb::arg("sources"), nb::arg("target"), nb::arg("crcs"),
          "Copy clusters from addresses, and sum them; see native/checkpoint/clusters.hpp.");
    m.def("checksums", &sum_clusters, nb::arg("data"), nb::arg("crcs"), "Sum clusters.");
}

}  // namespace hatchway
