// Thin binding: parses, validates, calls the kernels. None releases the GIL: they
// either call back into Python or are done in microseconds.
#include <Python.h>
#include <nanobind/nanobind.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/buffers.hpp"
#include "chunk.hpp"
#include "copy.hpp"
#include "dlpack.hpp"
#include "generators.hpp"
#include "rows.hpp"
#include "spans.hpp"

namespace nb = nanobind;

namespace hatchway {
void bind_board(nb::module_ &m);  // board_binding.cpp
}

namespace {

using hatchway::ColumnBuffers;
using hatchway::HeldColumns;
using hatchway::ReadableBuffer;
using hatchway::WritableBuffer;

using Description = nb::typed<nb::tuple, nb::any, nb::ellipsis>;
using ChunkResult = nb::typed<nb::tuple, int, int, nb::any>;

void copy(nb::object target, nb::object source) {
    const WritableBuffer to(target);
    const ReadableBuffer from(source);
    if (from.nbytes() > to.nbytes()) throw nb::value_error("target is smaller than source");
    hatchway::copy_past_caches(to.data(), from.data(), from.nbytes());
}

class Spans {
  public:
    explicit Spans(nb::object buffer) : buffer_(buffer) {
        if (reinterpret_cast<std::uintptr_t>(buffer_.data()) % sizeof(std::uint64_t) != 0)
            throw nb::value_error("buffer must be aligned to 8 bytes");
    }
    void set(std::size_t i, std::uint32_t next, std::uint32_t end) {
        hatchway::span_set(word(i), next, end);
    }
    std::int64_t take(std::size_t i) { return hatchway::span_take(word(i)); }
    std::pair<std::uint32_t, std::uint32_t> steal(std::size_t i) {
        const std::uint64_t left = hatchway::span_steal(word(i));
        return {hatchway::next_of(left), hatchway::end_of(left)};
    }

  private:
    std::uint64_t &word(std::size_t i) const {
        if (i >= buffer_.nbytes() / sizeof(std::uint64_t)) throw nb::index_error("no such span");
        return static_cast<std::uint64_t *>(buffer_.data())[i];
    }
    WritableBuffer buffer_;
};

// Bytes that one process publishes and others read without a lock.
class Flags {
  public:
    explicit Flags(nb::object buffer) : buffer_(buffer) {}
    void publish(std::size_t i, std::uint8_t value) {
        if (i >= buffer_.nbytes()) throw nb::index_error("no such flag");
        std::atomic_ref<std::uint8_t>(static_cast<std::uint8_t *>(buffer_.data())[i])
            .store(value, std::memory_order_release);
    }

  private:
    WritableBuffer buffer_;
};

class Generators {
  public:
    explicit Generators(hatchway::GeneratorAddresses at) : at_(at) {}
    void seed(std::uint64_t base_seed, std::uint64_t epoch, std::uint64_t position) {
        hatchway::seed_generators(at_, base_seed, epoch, position);
    }

    const hatchway::GeneratorAddresses &addresses() const { return at_; }

  private:
    hatchway::GeneratorAddresses at_;
};

// The rows of one block. The description is RowLayout.describe() in rows.py.
class RowTarget {
  public:
    RowTarget(nb::object memory, Description description, nb::object exchange_api)
        : memory_(memory), description_(description) {
        if (!exchange_api.is_none()) {
            const void *found = PyCapsule_GetPointer(exchange_api.ptr(), "dlpack_exchange_api");
            if (found == nullptr) throw nb::python_error();
            api_ = static_cast<const hatchway::dlpack::ExchangeApi *>(found);
            if (api_->header.major != hatchway::dlpack::kMajor) api_ = nullptr;
        }
        root_ = parse(description);
    }
    bool write(std::size_t row, nb::handle sample) {
        if (row >= num_rows_) throw nb::index_error("no such row");
        return hatchway::write_value(root_, row, sample.ptr());
    }
    const hatchway::Node &root() const { return root_; }
    std::size_t num_rows() const { return num_rows_; }

  private:
    hatchway::Node parse(nb::handle description) {
        const auto parts = nb::cast<nb::tuple>(description);
        const auto kind = nb::cast<std::string>(parts[0]);
        hatchway::Node node{};
        node.type = reinterpret_cast<PyTypeObject *>(nb::handle(parts[1]).ptr());
        if (!PyType_Check(nb::handle(parts[1]).ptr())) throw nb::type_error("expected a type");
        if (kind == "sequence" || kind == "mapping") {
            node.kind = kind == "mapping" ? hatchway::NodeKind::mapping
                                          : hatchway::NodeKind::sequence;
            const bool fits = kind == "mapping" ? node.type == &PyDict_Type
                                                : node.type == &PyTuple_Type ||
                                                      node.type == &PyList_Type;
            if (!fits) throw nb::type_error("only tuple, list and dict nest");
            for (nb::handle key : nb::cast<nb::tuple>(parts[2])) node.keys.push_back(key.ptr());
            for (nb::handle item : nb::cast<nb::tuple>(parts[3])) node.items.push_back(parse(item));
            if (kind == "mapping" && node.keys.size() != node.items.size())
                throw nb::value_error("a mapping needs a key for each item");
            return node;
        }
        node.kind = kind == "tensor"  ? hatchway::NodeKind::tensor
                    : kind == "array" ? hatchway::NodeKind::array
                    : kind == "int"   ? hatchway::NodeKind::integer
                                      : hatchway::NodeKind::real;
        if (kind == "int" && node.type != &PyLong_Type) throw nb::type_error("expected int");
        if (kind == "float" && node.type != &PyFloat_Type) throw nb::type_error("expected float");
        const auto offset = nb::cast<std::size_t>(parts[2]);
        const auto count = nb::cast<std::size_t>(parts[3]);
        node.row_bytes = nb::cast<std::size_t>(parts[4]);
        node.shape = nb::cast<std::vector<Py_ssize_t>>(parts[5]);
        node.format = nb::cast<std::string>(parts[6]);
        node.dtype = {nb::cast<std::uint8_t>(parts[7]),
                      static_cast<std::uint8_t>(nb::cast<unsigned>(parts[8])), 1};
        // Complex numbers may be conjugated lazily, which DLPack does not show.
        if (kind == "tensor" && node.dtype.code != kComplexCode) node.api = api_;
        if (offset > memory_.nbytes() || count * node.row_bytes > memory_.nbytes() - offset)
            throw nb::value_error("rows lie outside of the memory");
        node.rows = static_cast<unsigned char *>(memory_.data()) + offset;
        num_rows_ = num_rows_ == 0 ? count : std::min(num_rows_, count);
        return node;
    }

    static constexpr std::uint8_t kComplexCode = 5;

    WritableBuffer memory_;
    nb::object description_;  // keeps the types and keys alive that nodes point to
    const hatchway::dlpack::ExchangeApi *api_ = nullptr;
    std::size_t num_rows_ = 0;
    hatchway::Node root_;
};

class ChunkRunner {
  public:
    ChunkRunner(ColumnBuffers columns, std::size_t worker, std::uint8_t done_status,
                std::uint8_t row_kind, nb::object generators, nb::object python_random)
        : held_(columns), generators_(generators), python_random_(python_random) {
        const std::size_t positions = held_.open("status", at_.status);
        const std::size_t workers = held_.open("span", at_.span);
        held_.open("started", at_.started, workers);
        held_.open("current", at_.current, workers);
        held_.open("key", at_.key, positions);
        held_.open("row", at_.row, positions);
        held_.open("kind", at_.kind, positions);
        held_.open("seconds", at_.seconds, positions);
        if (worker >= workers) throw nb::index_error("no such worker");
        at_.mask = hatchway::ring_mask(positions);
        at_.worker = worker;
        at_.done_status = done_status;
        at_.row_kind = row_kind;
        if (!generators.is_none()) seeds_ = &nb::cast<Generators &>(generators).addresses();
    }

    ChunkRunner(const ChunkRunner &) = delete;
    ChunkRunner &operator=(const ChunkRunner &) = delete;

    ChunkResult run(nb::handle dataset, std::int64_t first, std::uint64_t base_seed,
                  std::uint64_t epoch, std::int64_t epoch_start, double visited, double visit_s,
                  nb::object keys, nb::object rows) {
        hatchway::ChunkState state{first, base_seed, epoch, epoch_start, visited, visit_s};
        const hatchway::Node *node =
            rows.is_none() ? nullptr : &nb::cast<RowTarget &>(rows).root();
        PyObject *sample = nullptr;
        hatchway::Return why{};
        hatchway::stay_at_interpreter_end([&] {
            why = hatchway::run_chunk(
                at_, state, dataset.ptr(), keys.is_none() ? nullptr : keys.ptr(), node, seeds_,
                python_random_.ptr(), &sample);
        });
        num_done = state.done;
        ended = state.ended;
        if (why == hatchway::Return::unwritten && sample == nullptr) throw nb::python_error();
        nb::object value = sample == nullptr ? nb::none() : nb::steal(sample);
        return ChunkResult(nb::make_tuple(static_cast<int>(why), state.position, value));
    }

    std::int64_t num_done = 0;
    double ended = 0.0;

  private:
    HeldColumns held_;
    hatchway::Columns at_{};
    nb::object generators_, python_random_;
    const hatchway::GeneratorAddresses *seeds_ = nullptr;
};

}  // namespace

NB_MODULE(_native, m) {
    m.doc() = "Kernels of hatchway.loader; each has a Python twin beside its caller.";
    hatchway::bind_board(m);
    // A daemon thread may still hold an iterator when the interpreter ends: no news.
    nb::set_leak_warnings(false);
    m.def("abi_version", [] { return 7; }, "Version of this module's interface.");

    m.def("copy", &copy, nb::arg("target"), nb::arg("source"),
          "Copy source to the beginning of target, past the caches.");

    nb::class_<Spans>(m, "Spans", "Unbegun parts [next, end) of the workers' chunks.")
        .def(nb::init<nb::object>(), nb::arg("buffer"))
        .def("set", &Spans::set, nb::arg("i"), nb::arg("next"), nb::arg("end"))
        .def("take", &Spans::take, nb::arg("i"), "The next offset of span i, or -1.")
        .def("steal", &Spans::steal, nb::arg("i"), "Empty span i; return what was left.");

    nb::class_<Flags>(m, "Flags", "Bytes published with release order.")
        .def(nb::init<nb::object>(), nb::arg("buffer"))
        .def("publish", &Flags::publish, nb::arg("i"), nb::arg("value"));

    nb::class_<Generators>(m, "Generators", "The global generators of this process.")
        .def(
            "__init__",
            [](Generators *self, std::uintptr_t random_words, std::uintptr_t random_index,
               std::uintptr_t numpy_words, std::uintptr_t numpy_index,
               std::uintptr_t numpy_has_gauss, std::uintptr_t torch_words,
               std::uintptr_t torch_seed, std::uintptr_t torch_left, std::uintptr_t torch_next,
               std::uintptr_t torch_float_flag, std::uintptr_t torch_double_flag) {
                new (self) Generators({random_words, random_index, numpy_words, numpy_index,
                                       numpy_has_gauss, torch_words, torch_seed, torch_left,
                                       torch_next, torch_float_flag, torch_double_flag});
            },
            nb::kw_only(), nb::arg("random_words"), nb::arg("random_index"),
            nb::arg("numpy_words"), nb::arg("numpy_index"), nb::arg("numpy_has_gauss"),
            nb::arg("torch_words"), nb::arg("torch_seed"), nb::arg("torch_left"),
            nb::arg("torch_next"), nb::arg("torch_float_flag"), nb::arg("torch_double_flag"))
        .def("seed", &Generators::seed, nb::arg("base_seed"), nb::arg("epoch"),
             nb::arg("position"));

    nb::class_<RowTarget>(m, "RowTarget", "Rows of a block that samples are written into.")
        .def(nb::init<nb::object, Description, nb::object>(), nb::arg("memory"),
             nb::arg("description"), nb::arg("exchange_api").none())
        .def("write", &RowTarget::write, nb::arg("row"), nb::arg("sample"),
             "Write a sample; False, with the row undefined, if it does not fit.");

    nb::class_<ChunkRunner>(m, "ChunkRunner", "The loop of a worker over the samples of a chunk.")
        .def(nb::init<ColumnBuffers, std::size_t, std::uint8_t, std::uint8_t, nb::object, nb::object>(),
             nb::arg("columns"), nb::arg("worker"), nb::arg("done_status"), nb::arg("row_kind"),
             nb::arg("generators").none(), nb::arg("python_random"))
        .def("run", &ChunkRunner::run, nb::arg("dataset"), nb::arg("first"), nb::arg("base_seed"),
             nb::arg("epoch"), nb::arg("epoch_start"), nb::arg("visited"), nb::arg("visit_s"),
             nb::arg("keys").none(), nb::arg("rows").none(),
             "Run samples until the chunk is exhausted (0), one is not written (1), or it is "
             "time to visit the board (2); returns (why, position, sample or None).")
        .def_ro("num_done", &ChunkRunner::num_done, "Samples run by the last call.")
        .def_ro("ended", &ChunkRunner::ended, "When the last of them ended, monotonic seconds.");
}
