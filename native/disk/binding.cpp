// Thin binding: parses, validates, releases the GIL, calls the kernels.
#include <Python.h>
#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>

#include <cstdint>
#include <cstring>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "base/buffers.hpp"
#include "chain_kernel.hpp"
#include "opening.hpp"

namespace hatchway {

void bind_server(nb::module_ &m);  // server_binding.cpp
void bind_tables(nb::module_ &m);  // tables_binding.cpp

std::unique_ptr<Layer> layer_of(const nb::tuple &fields) {
    auto layer = std::make_unique<Layer>();
    layer->fd = nb::cast<int>(fields[0]);
    layer->data_fd = nb::cast<int>(fields[1]);
    layer->size = nb::cast<std::uint64_t>(fields[2]);
    layer->limit = nb::cast<std::uint64_t>(fields[3]);
    layer->is_raw = fields.size() == 4;
    if (!layer->is_raw) {
        layer->cluster_bits = nb::cast<int>(fields[4]);
        if (layer->cluster_bits < 9 || layer->cluster_bits > 21)
            throw nb::value_error("cluster_bits must be from 9 to 21");
        layer->l1_offset = nb::cast<std::uint64_t>(fields[5]);
        layer->l1_size = nb::cast<std::uint64_t>(fields[6]);
        layer->rules = {1ULL << layer->cluster_bits, nb::cast<bool>(fields[7]),
                        nb::cast<bool>(fields[8]), nb::cast<bool>(fields[9])};
    }
    return layer;
}

namespace {

constexpr int kAbiVersion = 4;

Layers layers_of(const LayerTuples &described) {
    Layers layers;
    for (nb::handle one : described) layers.push_back(layer_of(nb::cast<nb::tuple>(one)));
    if (layers.empty() || layers.size() > UINT16_MAX)
        throw nb::value_error("a chain has from 1 to 65535 layers");
    return layers;
}

LeafArrays arrays_of(const Leaf &leaf) {
    const auto bytes = [](const auto &column) {
        return nb::bytes(reinterpret_cast<const char *>(column), sizeof column);
    };
    return nb::make_tuple(bytes(leaf.words), bytes(leaf.layers));
}

template <class Cells>
void fill(Cells &cells, nb::handle source) {
    const ReadableBuffer from(source);
    if (from.nbytes() != sizeof cells) throw nb::value_error("a leaf has 512 granules");
    std::memcpy(cells, from.data(), sizeof cells);
}

using Opened = nb::typed<nb::list, nb::typed<nb::tuple, int, int, int, int, int, int>>;

Opened open_files(nb::typed<nb::list, nb::bytes> paths, bool locks) {
    nb::list opened;
    for (nb::handle path : paths) {
        OpenedFile file;
        if (!open_one(nb::cast<nb::bytes>(path).c_str(), locks, file)) break;
        opened.append(nb::make_tuple(file.fd, file.device, file.inode, file.bytes,
                                     file.modified_ns, file.changed_ns));
    }
    return Opened(opened);
}

// A number that fits, or -1.
std::int64_t number_of(nb::handle number) {
    const long long value = PyLong_AsLongLong(number.ptr());
    if (value == -1 && PyErr_Occurred() != nullptr) PyErr_Clear();
    return value;
}

}  // namespace

ChainKernel::ChainKernel(LayerTuples layers, std::uint64_t size, int granule_bits,
                         std::size_t most_bytes, bool may_merge, ChainKernel *twin)
    : chain_(layers_of(layers), size, granule_bits,
             twin != nullptr ? twin->chain_.leaves()
                             : std::make_shared<SharedLeaves>(most_bytes, 1ULL << granule_bits),
             may_merge) {
    // A leaf has no more than a cluster a granule.
    if (granule_bits < 9 || granule_bits > chain_.least_cluster_bits())
        throw nb::value_error("granule_bits must be from 9 to the least cluster_bits");
    if (twin != nullptr && (twin->chain_.granule_bits() != granule_bits ||
                            twin->chain_.num_layers() != chain_.num_layers()))
        throw nb::value_error("twins are chains of the same files");
}

MaybeBytes ChainKernel::read_at(nb::handle offset, nb::handle size) {
    const std::int64_t start = number_of(offset), count = number_of(size);
    if (!holds(start, count)) return nb::none();
    auto found = nb::steal<nb::object>(PyBytes_FromStringAndSize(nullptr, count));
    if (!found.is_valid()) throw nb::python_error();
    char *target = PyBytes_AS_STRING(found.ptr());
    Outcome outcome;
    {
        const nb::gil_scoped_release released;
        outcome = chain_.read(start, count, target, true);
    }
    return outcome == Outcome::done ? found : nb::none();
}

bool ChainKernel::read_into(nb::handle offset, nb::object buffer) {
    const WritableBuffer target(buffer);
    const std::int64_t start = number_of(offset);
    const auto count = static_cast<std::int64_t>(target.nbytes());
    if (!holds(start, count)) return false;
    const nb::gil_scoped_release released;
    return chain_.read(start, count, static_cast<char *>(target.data()), true) == Outcome::done;
}

bool ChainKernel::overwrite(nb::handle offset, nb::object data) {
    const ReadableBuffer source(data);
    const std::int64_t start = number_of(offset);
    if (!holds(start, static_cast<std::int64_t>(source.nbytes()))) return false;
    const nb::gil_scoped_release released;
    return chain_.overwrite(start, source.nbytes(), static_cast<const char *>(source.data())) ==
           Outcome::done;
}

NotedPieces ChainKernel::stop_overwriting() {
    std::unique_ptr<Noted> noted;
    {
        const nb::gil_scoped_release released;
        noted = chain_.stop_overwriting();
    }
    nb::list pieces;
    if (noted)
        noted->each_piece([&](std::size_t at, const std::uint8_t *bits, std::size_t num) {
            pieces.append(nb::make_tuple(at, nb::bytes(bits, num)));
        });
    return NotedPieces(pieces);
}

bool ChainKernel::load(std::uint64_t rank) {
    const nb::gil_scoped_release released;
    const auto use = chain_.in_use();
    return chain_.load(rank);
}

std::optional<LeafArrays> ChainKernel::merged(std::uint64_t rank, std::size_t first,
                                              std::size_t end) {
    auto leaf = std::make_unique<Leaf>();
    bool is_done;
    {
        const nb::gil_scoped_release released;
        const auto use = chain_.in_use();
        is_done = chain_.merged(rank, first, end, *leaf);
    }
    return is_done ? std::optional(arrays_of(*leaf)) : std::nullopt;
}

std::optional<LeafArrays> ChainKernel::leaf(std::uint64_t rank) {
    auto leaf = std::make_unique<Leaf>();
    return chain_.copy(rank, *leaf) ? std::optional(arrays_of(*leaf)) : std::nullopt;
}

void ChainKernel::put(std::uint64_t rank, nb::object words, nb::object layers) {
    auto leaf = std::make_unique<Leaf>();
    fill(leaf->words, words);
    fill(leaf->layers, layers);
    for (const std::uint16_t layer : leaf->layers)
        if (layer >= chain_.num_layers()) throw nb::value_error("no such layer");
    chain_.put(rank, std::move(leaf));
}

bool ChainKernel::update(std::uint64_t start, nb::bytes entries) {
    const std::size_t entry_bytes = chain_.top_entry_bytes();
    if (entry_bytes == 0 || entries.size() % entry_bytes != 0)
        throw nb::value_error("entries are whole ones, and of a qcow2 file");
    std::vector<std::uint64_t> cells(entries.size() / sizeof(std::uint64_t));
    std::memcpy(cells.data(), entries.c_str(), entries.size());
    return chain_.update(start, cells.data(), entries.size() / entry_bytes);
}

void ChainKernel::replace_top(LayerTuples top) {
    Layers layers = layers_of(top);
    if (chain_.num_layers() - 1 + layers.size() > UINT16_MAX)
        throw nb::value_error("a chain has from 1 to 65535 layers");
    const nb::gil_scoped_release released;
    chain_.replace_top(std::move(layers));
}

}  // namespace hatchway

NB_MODULE(_native, m) {
    namespace nb = nanobind;
    using hatchway::ChainKernel;
    // A chain may live until the process ends; it is no leak.
    nb::set_leak_warnings(false);
    m.doc() = "Kernels of hatchway.disk.";
    m.def("abi_version", [] { return hatchway::kAbiVersion; }, "Compared when it is loaded.");
    m.def("open_files", &hatchway::open_files, nb::arg("paths"), nb::arg("locks"),
          "Open files to be read: descriptor and identity of each, up to the first that is not "
          "the common case.");
    nb::class_<ChainKernel>(m, "ChainKernel",
                            "A chain as one disk, in the common case; see native/disk/chain.hpp.")
        .def(nb::init<hatchway::LayerTuples, std::uint64_t, int, std::size_t, bool,
                      ChainKernel *>(),
             nb::arg("layers"), nb::kw_only(), nb::arg("size"), nb::arg("granule_bits"),
             nb::arg("most_bytes"), nb::arg("may_merge"),
             nb::arg("twin").none() = nb::none(),
             "A twin is a chain of the same files, whose leaves this one has as well.")
        .def("read_at", &ChainKernel::read_at, nb::arg("offset"), nb::arg("size"),
             "Bytes of the disk; None where the case is not the common one.")
        .def("read_into", &ChainKernel::read_into, nb::arg("offset"), nb::arg("buffer"),
             "Fill a buffer; False where the case is not the common one.")
        .def("overwrite", &ChainKernel::overwrite, nb::arg("offset"), nb::arg("data"),
             "Write over what lies in the highest file already; False if not all of it does.")
        .def("load", &ChainKernel::load, nb::arg("rank"),
             "Merge a leaf that is not there; False where the case is not the common one.")
        .def("merged", &ChainKernel::merged, nb::arg("rank"), nb::arg("first"), nb::arg("end"),
             "Words and layers of a leaf, of layers [first, end) only, which is not kept.")
        .def("leaf", &ChainKernel::leaf, nb::arg("rank"),
             "Words and layers of a leaf, if it is there.")
        .def("put", &ChainKernel::put, nb::arg("rank"), nb::arg("words"), nb::arg("layers"),
             "Keep a leaf.")
        .def("update", &ChainKernel::update, nb::arg("start"), nb::arg("entries"),
             "The highest file has these L2 entries of the guest clusters from an offset on now; "
             "False where leaves that lie there are to be dropped.")
        .def("drop", [](ChainKernel &self, std::uint64_t first,
                        std::uint64_t end) { self.chain().drop(first, end); },
             nb::arg("first"), nb::arg("end"), "Forget leaves [first, end).")
        .def("num_bytes", [](ChainKernel &self) { return self.chain().num_bytes(); },
             "What the leaves take that are kept.")
        .def("allow_overwriting",
             [](ChainKernel &self, bool may, std::uint64_t noted_bytes) {
                 self.chain().allow_overwriting(may, noted_bytes);
             },
             nb::arg("may"), nb::arg("noted_bytes") = 0,
             "Whether data of the highest file belongs to the disk alone; and the bytes of a "
             "granule of which it is noted that it was overwritten, a power of 2, or 0.")
        .def("stop_overwriting", &ChainKernel::stop_overwriting,
             "Returns when nobody overwrites any more: of the bits of the granules, the lowest of a "
             "byte first, pieces of bytes with what was noted, and the byte where each begins.")
        .def("resize", &ChainKernel::resize, nb::arg("size"), "The disk has so many bytes now.")
        .def("replace_top", &ChainKernel::replace_top, nb::arg("top"),
             "Other files take the highest one's place; leaves say what they said.")
        .def("settle", &ChainKernel::settle, "Returns when nobody uses what was found before.")
        .def("close", &ChainKernel::close, "The files are closed after this.")
        .def("after_fork", [](ChainKernel &self) { self.chain().after_fork(); },
             "To be called in the child of a fork.");
    hatchway::bind_tables(m);
    hatchway::bind_server(m);
}
