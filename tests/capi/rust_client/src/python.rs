//! The few functions of Python's stable ABI that the client calls; the
//! interpreter that loads it has them.

use std::ffi::{c_char, c_int, c_long, c_void};

#[repr(C)]
pub struct Object {
    opaque: [u8; 0],
}

extern "C" {
    pub static PyExc_ImportError: *mut Object;

    pub fn Py_IncRef(object: *mut Object);
    pub fn Py_DecRef(object: *mut Object);
    pub fn PyImport_ImportModule(name: *const c_char) -> *mut Object;
    pub fn PyObject_GetAttrString(
        object: *mut Object,
        name: *const c_char,
    ) -> *mut Object;
    pub fn PyObject_CallFunction(
        callable: *mut Object,
        format: *const c_char,
        ...
    ) -> *mut Object;
    pub fn PyCapsule_New(
        pointer: *mut c_void,
        name: *const c_char,
        destructor: unsafe extern "C" fn(*mut Object),
    ) -> *mut Object;
    pub fn PyCapsule_GetPointer(
        capsule: *mut Object,
        name: *const c_char,
    ) -> *mut c_void;
    pub fn PyErr_SetString(kind: *mut Object, text: *const c_char);
    pub fn PyLong_AsLong(object: *mut Object) -> c_long;
    pub fn PyBool_FromLong(value: c_long) -> *mut Object;
    pub fn PyLong_FromLong(value: c_long) -> *mut Object;
    pub fn PyUnicode_FromStringAndSize(
        text: *const c_char,
        size: isize,
    ) -> *mut Object;
    pub fn Py_BuildValue(format: *const c_char, ...) -> *mut Object;
}

/// A Python object kept by native code.  Cloned and dropped attached only.
pub struct Owned(pub *mut Object);

unsafe impl Send for Owned {}
unsafe impl Sync for Owned {}

impl Owned {
    pub unsafe fn of(borrowed: *mut Object) -> Owned {
        Py_IncRef(borrowed);
        Owned(borrowed)
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        unsafe { Py_DecRef(self.0) }
    }
}

/// 0, or -1 with the exception set; takes the reference.
pub unsafe fn status_of(result: *mut Object) -> c_int {
    if result.is_null() {
        return -1;
    }
    Py_DecRef(result);
    0
}
