// Write a sample of known structure into its row: the twin of RowWriter in rows.py,
// for dense tensors and arrays that NumPy can see. What does not fit is left to it.
#pragma once

#include <Python.h>

#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "copy.hpp"
#include "dlpack.hpp"

namespace hatchway {

enum class NodeKind { tensor, array, integer, real, sequence, mapping };

struct Node {
    NodeKind kind;
    PyTypeObject *type;             // exact type of the value; borrowed, see RowTarget
    std::vector<PyObject *> keys;   // of a mapping; borrowed
    std::vector<Node> items;        // of a sequence or mapping
    unsigned char *rows = nullptr;  // of a leaf
    std::size_t row_bytes = 0;
    std::vector<Py_ssize_t> shape;
    std::string format;                            // of the buffer protocol
    dlpack::DataType dtype{};                      // of a tensor
    const dlpack::ExchangeApi *api = nullptr;      // of a tensor, where torch has it
};

class BufferView {
  public:
    explicit BufferView(PyObject *source) {
        valid_ = PyObject_GetBuffer(source, &view_, PyBUF_C_CONTIGUOUS | PyBUF_FORMAT) == 0;
    }
    BufferView(const BufferView &) = delete;
    BufferView &operator=(const BufferView &) = delete;
    ~BufferView() {
        if (valid_) PyBuffer_Release(&view_);
    }
    bool copy_row(const Node &leaf, std::size_t row) const {
        if (!valid_ || view_.ndim != static_cast<int>(leaf.shape.size())) return false;
        for (std::size_t i = 0; i < leaf.shape.size(); ++i)
            if (view_.shape[i] != leaf.shape[i]) return false;
        if (leaf.format != (view_.format == nullptr ? "B" : view_.format)) return false;
        if (static_cast<std::size_t>(view_.len) != leaf.row_bytes) return false;
        copy_past_caches(leaf.rows + row * leaf.row_bytes, view_.buf, leaf.row_bytes);
        return true;
    }

  private:
    Py_buffer view_{};
    bool valid_;
};

inline bool is_false(PyObject *value) {
    const bool answer = value == Py_False;
    Py_XDECREF(value);
    return answer;
}

// Copies a dense CPU tensor that needs no gradient; false for any other.
inline bool copy_tensor(const Node &leaf, std::size_t row, PyObject *value) {
    static PyObject *const requires_grad = PyUnicode_InternFromString("requires_grad");
    static PyObject *const is_neg = PyUnicode_InternFromString("is_neg");
    dlpack::Tensor tensor{};
    if (!is_false(PyObject_GetAttr(value, requires_grad)) ||
        !is_false(PyObject_CallMethodNoArgs(value, is_neg)) ||
        leaf.api->tensor_from_py_object_no_sync(value, &tensor) != 0 ||
        tensor.device.type != dlpack::kCpu || tensor.dtype.code != leaf.dtype.code ||
        tensor.dtype.bits != leaf.dtype.bits || tensor.dtype.lanes != 1 ||
        tensor.ndim != static_cast<int>(leaf.shape.size()) || tensor.data == nullptr)
        return false;
    std::int64_t stride = 1;
    for (std::size_t i = leaf.shape.size(); i-- > 0;) {
        if (tensor.shape[i] != leaf.shape[i]) return false;
        if (tensor.strides != nullptr && tensor.shape[i] != 1 && tensor.strides[i] != stride)
            return false;
        stride *= tensor.shape[i];
    }
    copy_past_caches(leaf.rows + row * leaf.row_bytes,
                     static_cast<unsigned char *>(tensor.data) + tensor.byte_offset,
                     leaf.row_bytes);
    return true;
}

template <class T>
void write_number(const Node &leaf, std::size_t row, T value) {
    std::memcpy(leaf.rows + row * leaf.row_bytes, &value, sizeof value);
}

// False, with no exception set, where the value is not what the node says.
inline bool write_value(const Node &node, std::size_t row, PyObject *value) {
    if (Py_TYPE(value) != node.type) return false;
    switch (node.kind) {
    case NodeKind::tensor: {
        if (node.api != nullptr) {
            const bool done = copy_tensor(node, row, value);
            if (!done && PyErr_Occurred()) PyErr_Clear();
            return done;
        }
        static PyObject *const name = PyUnicode_InternFromString("numpy");
        // Raises for a tensor that requires grad, is not on the CPU, is sparse, ...
        PyObject *array = PyObject_CallMethodNoArgs(value, name);
        if (array == nullptr) {
            PyErr_Clear();
            return false;
        }
        bool done;
        {
            const BufferView view(array);
            done = view.copy_row(node, row);
        }
        Py_DECREF(array);
        if (PyErr_Occurred()) PyErr_Clear();
        return done;
    }
    case NodeKind::array: {
        const BufferView view(value);
        const bool done = view.copy_row(node, row);
        if (PyErr_Occurred()) PyErr_Clear();
        return done;
    }
    case NodeKind::integer: {
        int overflow = 0;
        const long long number = PyLong_AsLongLongAndOverflow(value, &overflow);
        if (overflow != 0) return false;
        write_number<std::int64_t>(node, row, number);
        return true;
    }
    case NodeKind::real:
        write_number<double>(node, row, PyFloat_AS_DOUBLE(value));
        return true;
    case NodeKind::sequence: {
        const bool is_list = PyList_CheckExact(value);
        const Py_ssize_t size = is_list ? PyList_GET_SIZE(value) : PyTuple_GET_SIZE(value);
        if (static_cast<std::size_t>(size) != node.items.size()) return false;
        for (Py_ssize_t i = 0; i < size; ++i) {
            PyObject *item = is_list ? PyList_GET_ITEM(value, i) : PyTuple_GET_ITEM(value, i);
            if (!write_value(node.items[static_cast<std::size_t>(i)], row, item)) return false;
        }
        return true;
    }
    case NodeKind::mapping: {
        if (static_cast<std::size_t>(PyDict_GET_SIZE(value)) != node.items.size()) return false;
        PyObject *key = nullptr, *item = nullptr;
        Py_ssize_t at = 0;
        for (std::size_t i = 0; PyDict_Next(value, &at, &key, &item); ++i) {
            if (i == node.keys.size()) return false;  // a key's __eq__ changed the dict
            // default_collate keeps the order of the first sample's keys.
            if (key != node.keys[i]) {
                const int same = PyObject_RichCompareBool(key, node.keys[i], Py_EQ);
                if (same < 0) PyErr_Clear();
                if (same != 1) return false;
            }
            if (!write_value(node.items[i], row, item)) return false;
        }
        return true;
    }
    }
    return false;
}

}  // namespace hatchway
