// Thin binding: parses, validates, calls the kernels. No work here is long enough
// to release the GIL for.
#include <Python.h>
#include <nanobind/nanobind.h>
#include <nanobind/stl/pair.h>

#include <atomic>
#include <cstdint>
#include <utility>

#include "generators.hpp"
#include "spans.hpp"

namespace nb = nanobind;

namespace {

// Keeps a writable buffer exported for as long as the object lives.
class WritableBuffer {
  public:
    explicit WritableBuffer(nb::handle source) {
        if (PyObject_GetBuffer(source.ptr(), &view_, PyBUF_WRITABLE) != 0) throw nb::python_error();
    }
    WritableBuffer(const WritableBuffer &) = delete;
    WritableBuffer &operator=(const WritableBuffer &) = delete;
    ~WritableBuffer() { PyBuffer_Release(&view_); }
    std::size_t nbytes() const { return static_cast<std::size_t>(view_.len); }
    void *data() const { return view_.buf; }

  private:
    Py_buffer view_{};
};

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

  private:
    hatchway::GeneratorAddresses at_;
};

}  // namespace

NB_MODULE(_native, m) {
    m.doc() = "Kernels of hatchway.loader; each has a Python twin beside its caller.";
    m.def("abi_version", [] { return 1; }, "Version of this module's interface.");

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
}
