// Python buffers that a native object looks at, exported for as long as it lives.
#pragma once

#include <Python.h>
#include <nanobind/nanobind.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace hatchway {

namespace nb = nanobind;

using ColumnBuffers = nb::typed<nb::dict, nb::str, nb::object>;

template <int kFlags, class Bytes>
class Buffer {
  public:
    explicit Buffer(nb::handle source) {
        if (PyObject_GetBuffer(source.ptr(), &view_, kFlags) != 0) throw nb::python_error();
    }
    Buffer(const Buffer &) = delete;
    Buffer &operator=(const Buffer &) = delete;
    ~Buffer() { PyBuffer_Release(&view_); }
    std::size_t nbytes() const { return static_cast<std::size_t>(view_.len); }
    Bytes *data() const { return view_.buf; }

  private:
    Py_buffer view_{};
};

using WritableBuffer = Buffer<PyBUF_WRITABLE, void>;
using ReadableBuffer = Buffer<PyBUF_SIMPLE, const void>;

// The columns of a board, by name.
class HeldColumns {
  public:
    explicit HeldColumns(const ColumnBuffers &columns) : columns_(columns) {}
    // Opens a column as an array of T and returns how many cells it has.
    template <class T>
    std::size_t open(const char *name, T *&target) {
        held_.push_back(std::make_unique<WritableBuffer>(columns_[name]));
        const WritableBuffer &buffer = *held_.back();
        if (reinterpret_cast<std::uintptr_t>(buffer.data()) % alignof(T) != 0)
            throw nb::value_error("column is not aligned");
        target = static_cast<T *>(buffer.data());
        return buffer.nbytes() / sizeof(T);
    }
    template <class T>
    void open(const char *name, T *&target, std::size_t count) {
        if (open(name, target) != count) throw nb::value_error("columns do not fit together");
    }

  private:
    ColumnBuffers columns_;
    std::vector<std::unique_ptr<WritableBuffer>> held_;
};

inline std::uint64_t ring_mask(std::size_t size) {
    if (size == 0 || (size & (size - 1)) != 0)
        throw nb::value_error("the size of a ring is a power of two");
    return size - 1;
}

}  // namespace hatchway
