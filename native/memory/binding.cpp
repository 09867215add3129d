// Thin binding: parses, validates, releases the GIL, calls the kernels.
#include <Python.h>
#include <nanobind/nanobind.h>

#include "base/buffers.hpp"
#include "scan.hpp"

namespace hatchway {
namespace {

constexpr int kAbiVersion = 1;

using Answer = nb::typed<nb::tuple, nb::bytes, int, int>;

Answer take_written(PagemapScanner &scanner, nb::object pages) {
    const ReadableBuffer ranges(pages);
    if (ranges.nbytes() % sizeof(AddressRange) != 0)
        throw nb::value_error("pages are rows of two integers of 8 bytes");
    Scanned scanned;
    {
        nb::gil_scoped_release release;
        scanned = scanner.take_written(static_cast<const AddressRange *>(ranges.data()),
                                       ranges.nbytes() / sizeof(AddressRange));
    }
    const nb::bytes found(reinterpret_cast<const char *>(scanned.found.data()),
                          scanned.found.size() * sizeof(AddressRange));
    return Answer(nb::make_tuple(found, scanned.num_done, scanned.error));
}

}  // namespace

NB_MODULE(_native, m) {
    // A tracker that is not closed lives until the process ends; it is no leak.
    nb::set_leak_warnings(false);
    m.doc() = "Kernels of hatchway.memory.";
    m.def("abi_version", [] { return kAbiVersion; }, "Compared when it is loaded.");
    nb::class_<PagemapScanner>(m, "PagemapScanner",
                               "PAGEMAP_SCAN over ranges; see native/memory/scan.hpp.")
        .def(nb::init<int>(), nb::arg("fd"))
        .def("take_written", &take_written, nb::arg("pages"),
             "Written pages as rows of bytes, how many ranges were done, and the error of the "
             "next one; not from two threads at once.");
}

}  // namespace hatchway
