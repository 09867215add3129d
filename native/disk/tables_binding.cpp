// Binding of the reader of L2 tables.
#include <Python.h>
#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "base/buffers.hpp"
#include "chain_kernel.hpp"
#include "tables.hpp"

namespace hatchway {

namespace {

using MaybeTaken = std::optional<nb::bytes>;

// Counts in bytes, and checks what it is given.
class PythonTableReader {
  public:
    explicit PythonTableReader(LayerTuple layer) : reader_(qcow2_layer_of(layer)) {
        const nb::gil_scoped_release released;
        is_open_ = reader_.open();
    }

    bool is_open() const { return is_open_; }

    std::optional<std::uint64_t> next_byte() const {
        if (reader_.next() == TableReader::kNone) return std::nullopt;
        return reader_.next() << reader_.layer().cluster_bits;
    }

    MaybeTaken take(std::uint64_t end) { return take_onto(end, nullptr, 0); }

    MaybeTaken paint(std::uint64_t end, std::uint64_t start, int granule_bits, nb::object words,
                     nb::object layers, nb::object is_painted, std::uint16_t number) {
        const WritableBuffer word_cells(words), layer_cells(layers), flags(is_painted);
        const Layer &layer = reader_.layer();
        const int own_bits = layer.cluster_bits - (layer.rules.has_subclusters ? 5 : 0);
        if (granule_bits < 9 || granule_bits > own_bits)
            throw nb::value_error("granule_bits must be from 9 to those of the layer");
        if (next_byte().value_or(UINT64_MAX) < start)
            throw nb::value_error("start must not lie behind what is next");
        const std::uint64_t num_granules = flags.nbytes() << kLeafBits;
        if (word_cells.nbytes() != num_granules * sizeof(std::uint64_t) ||
            layer_cells.nbytes() != num_granules * sizeof(std::uint16_t))
            throw nb::value_error("a leaf has 512 granules");
        Canvas canvas{start,
                      granule_bits,
                      num_granules,
                      static_cast<std::uint64_t *>(word_cells.data()),
                      static_cast<std::uint16_t *>(layer_cells.data()),
                      static_cast<bool *>(flags.data())};
        return take_onto(end, &canvas, number);
    }

  private:
    static std::unique_ptr<Layer> qcow2_layer_of(const nb::tuple &fields) {
        auto layer = layer_of(fields);
        if (layer->is_raw) throw nb::value_error("a raw file has no tables");
        return layer;
    }

    MaybeTaken take_onto(std::uint64_t end, Canvas *canvas, std::uint16_t number) {
        std::vector<std::uint64_t> taken;
        {
            const nb::gil_scoped_release released;
            is_open_ = is_open_ && reader_.take(end >> reader_.layer().cluster_bits, taken, canvas,
                                                number);
        }
        if (!is_open_) return std::nullopt;
        return nb::bytes(reinterpret_cast<const char *>(taken.data()),
                         taken.size() * sizeof(std::uint64_t));
    }

    TableReader reader_;
    bool is_open_;
};

}  // namespace

void bind_tables(nb::module_ &m) {
    nb::class_<PythonTableReader>(m, "TableReader",
                                  "The L2 entries of a file; see native/disk/tables.hpp.")
        .def(nb::init<LayerTuple>(), nb::arg("layer"))
        .def_prop_ro("is_open", &PythonTableReader::is_open,
                     "False where the file is left to Python.")
        .def_prop_ro("next_byte", &PythonTableReader::next_byte,
                     "From which guest offset on there is more; None at the end.")
        .def("take", &PythonTableReader::take, nb::arg("end"),
             "The entries up to a guest offset, and the numbers of their clusters; None where "
             "the case is not the common one.")
        .def("paint", &PythonTableReader::paint, nb::arg("end"), nb::kw_only(), nb::arg("start"),
             nb::arg("granule_bits"), nb::arg("words"), nb::arg("layers"), nb::arg("is_painted"),
             nb::arg("number"),
             "As take; and what they say is in the arrays of leaves from a guest offset on.");
}

}  // namespace hatchway
