//! A client of pyloop.h in Rust, without a crate: what a server's Rust side
//! would wrap around the table, and the functions that contract.py drives (by
//! ctypes.PyDLL, so attached and with exceptions raised).  Work and tasks are
//! boxes that free themselves in the callback that ends them.

mod pyloop;
mod python;

use pyloop::{Api, Promise, Task, Work};
use python::{Object, Owned};
use std::ffi::{c_int, c_long, c_void, CStr};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicI64, AtomicPtr, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

// -- the table and a loop ----------------------------------------------------

static API: AtomicPtr<Api> = AtomicPtr::new(null_mut());

fn api() -> &'static Api {
    // constant once init() has stored it, and the process's
    unsafe { &*API.load(Ordering::Relaxed) }
}

/// One reference to a loop; may outlive the loop.
struct Loop(*mut pyloop::Loop);

unsafe impl Send for Loop {}
unsafe impl Sync for Loop {}

impl Loop {
    /// None: an exception is set.
    unsafe fn of(object: *mut Object) -> Option<Loop> {
        let core = (api().loop_from)(object.cast());
        (!core.is_null()).then(|| Loop(core))
    }

    /// Has function(status) run by the loop; Err: it is closed.
    fn post<F>(&self, function: F) -> Result<(), c_int>
    where
        F: FnOnce(c_int) -> c_int + Send,
    {
        let item = Box::into_raw(Box::new(Item {
            work: Work::new(run_item::<F>),
            function,
        }));
        let status = unsafe { (api().post)(self.0, item.cast()) };
        if status < 0 {
            drop(unsafe { Box::from_raw(item) });
            return Err(status);
        }
        Ok(())
    }

    /// Attached, on the loop's thread: runs an awaitable (stolen), then
    /// function(status, value); Err: an exception is set.
    unsafe fn start<F>(
        &self,
        awaitable: *mut Object,
        function: F,
    ) -> Result<(), c_int>
    where
        F: FnOnce(c_int, *mut Object),
    {
        let mut task = Task::new(end_task::<F>);
        task.flags = pyloop::TASK_EAGER;
        let run = Box::into_raw(Box::new(Run { task, function }));
        let status = (api().task_start)(self.0, run.cast(), awaitable.cast());
        if status < 0 {
            drop(Box::from_raw(run));
            return Err(status);
        }
        Ok(())
    }
}

impl Clone for Loop {
    fn clone(&self) -> Loop {
        unsafe { (api().acquire)(self.0) }
        Loop(self.0)
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        unsafe { (api().release)(self.0) }
    }
}

#[repr(C)] // the struct that C knows comes first
struct Item<F> {
    work: Work,
    function: F,
}

unsafe extern "C" fn run_item<F: FnOnce(c_int) -> c_int>(
    work: *mut Work,
    status: c_int,
) -> c_int {
    let item: Box<Item<F>> = Box::from_raw(work.cast());
    (item.function)(status)
}

#[repr(C)]
struct Run<F> {
    task: Task,
    function: F,
}

unsafe extern "C" fn end_task<F: FnOnce(c_int, *mut Object)>(
    task: *mut Task,
    status: c_int,
    value: *mut c_void,
) {
    let run: Box<Run<F>> = Box::from_raw(task.cast());
    (run.function)(status, value.cast());
}

/// [attached]  The table, or ImportError.
#[no_mangle]
pub unsafe extern "C" fn init() -> *mut Object {
    let name = c"pyloop._core._C_API".as_ptr();
    let module = python::PyImport_ImportModule(c"pyloop._core".as_ptr());
    if module.is_null() {
        return null_mut();
    }
    let module = Owned(module);
    let capsule = python::PyObject_GetAttrString(module.0, c"_C_API".as_ptr());
    if capsule.is_null() {
        return null_mut();
    }
    let capsule = Owned(capsule);
    let table: *mut Api = python::PyCapsule_GetPointer(capsule.0, name).cast();
    if table.is_null() {
        return null_mut();
    }
    if (*table).version < pyloop::API_VERSION
        || ((*table).size as usize) < size_of::<Api>()
    {
        python::PyErr_SetString(
            python::PyExc_ImportError,
            c"pyloop is older than this client".as_ptr(),
        );
        return null_mut();
    }
    API.store(table, Ordering::Relaxed);
    python::Py_BuildValue(c"".as_ptr())
}

#[no_mangle]
pub unsafe extern "C" fn layout() -> *mut Object {
    let text = pyloop::layout();
    python::PyUnicode_FromStringAndSize(
        text.as_ptr().cast(),
        text.len() as isize,
    )
}

// -- handles that Python holds -----------------------------------------------

trait Handle: Sized {
    const NAME: &'static CStr;

    unsafe fn into_capsule(self) -> *mut Object {
        python::PyCapsule_New(
            Box::into_raw(Box::new(self)).cast(),
            Self::NAME.as_ptr(),
            drop_handle::<Self>,
        )
    }

    unsafe fn of_handle<'a>(capsule: *mut Object) -> &'a Self {
        &*python::PyCapsule_GetPointer(capsule, Self::NAME.as_ptr()).cast()
    }
}

unsafe extern "C" fn drop_handle<T: Handle>(capsule: *mut Object) {
    let pointer = python::PyCapsule_GetPointer(capsule, T::NAME.as_ptr());
    drop(Box::<T>::from_raw(pointer.cast()));
}

// -- a burst -----------------------------------------------------------------

#[derive(Default)]
struct Counts {
    next: AtomicU32,
    disorder: AtomicU32,
    discarded: AtomicU32,
    refused: AtomicU32,
}

struct Burst {
    callable: Arc<Owned>, // so that no thread drops the last
    threads: Mutex<Vec<JoinHandle<()>>>,
    counts: Vec<Arc<Counts>>,
}

impl Handle for Burst {
    const NAME: &'static CStr = c"burst";
}

impl Burst {
    fn join(&self) {
        for thread in self.threads.lock().unwrap().drain(..) {
            thread.join().unwrap();
        }
    }
}

impl Drop for Burst {
    fn drop(&mut self) {
        self.join();
    }
}

fn add(counter: &AtomicU32, n: u32) {
    counter.fetch_add(n, Ordering::Relaxed);
}

fn produce(core: &Loop, callable: &Arc<Owned>, counts: &Arc<Counts>, n: u32) {
    for number in 0..n {
        let (callable, all) = (callable.clone(), counts.clone());
        let posted = core.post(move |status| {
            if status == pyloop::CLOSED {
                add(&all.discarded, 1);
                return 0;
            }
            let next = all.next.swap(number + 1, Ordering::Relaxed);
            add(&all.disorder, (next != number) as u32);
            unsafe {
                let null = std::ptr::null();
                let result = python::PyObject_CallFunction(callable.0, null);
                python::status_of(result)
            }
        });
        add(&counts.refused, posted.is_err() as u32);
    }
}

#[no_mangle]
pub unsafe extern "C" fn burst(
    object: *mut Object,
    threads: u32,
    count: u32,
    callable: *mut Object,
) -> *mut Object {
    let Some(core) = Loop::of(object) else {
        return null_mut();
    };
    let burst = Burst {
        callable: Arc::new(Owned::of(callable)),
        threads: Mutex::default(),
        counts: (0..threads).map(|_| Arc::default()).collect(),
    };
    for counts in burst.counts.iter().cloned() {
        let (core, callable) = (core.clone(), burst.callable.clone());
        let run = move || produce(&core, &callable, &counts, count);
        burst.threads.lock().unwrap().push(thread::spawn(run));
    }
    burst.into_capsule()
}

/// Holds the GIL on purpose: a post must not need it.
#[no_mangle]
pub unsafe extern "C" fn join(handle: *mut Object) -> *mut Object {
    Burst::of_handle(handle).join();
    python::Py_BuildValue(c"".as_ptr())
}

/// (run, refused, discarded, out of order)
#[no_mangle]
pub unsafe extern "C" fn counts(handle: *mut Object) -> *mut Object {
    let all = &Burst::of_handle(handle).counts;
    let sum = |which: fn(&Counts) -> &AtomicU32| -> u32 {
        all.iter()
            .map(|one| which(one).load(Ordering::Relaxed))
            .sum()
    };
    python::Py_BuildValue(
        c"IIII".as_ptr(),
        sum(|one| &one.next),
        sum(|one| &one.refused),
        sum(|one| &one.discarded),
        sum(|one| &one.disorder),
    )
}

// -- coroutines of a native thread -------------------------------------------

struct Calls {
    core: Loop,
    handler: Owned,
    left: AtomicU32,
    total: AtomicI64,
    by_status: [AtomicU32; 4], // by minus the status
}

struct CallsHandle {
    calls: Arc<Calls>,
    thread: Option<JoinHandle<()>>,
}

impl Handle for CallsHandle {
    const NAME: &'static CStr = c"calls";
}

impl Drop for CallsHandle {
    fn drop(&mut self) {
        self.thread.take().map(JoinHandle::join);
    }
}

impl Calls {
    fn over(&self, status: c_int) {
        add(&self.by_status[-status as usize], 1);
        self.left.fetch_sub(1, Ordering::Release);
    }

    /// Attached, on the loop's thread.
    unsafe fn call(self: Arc<Calls>, number: u32) -> c_int {
        let format = c"I".as_ptr();
        let awaitable =
            python::PyObject_CallFunction(self.handler.0, format, number);
        if awaitable.is_null() {
            self.over(pyloop::RAISED);
            return -1;
        }
        let mine = self.clone();
        let started = self.core.start(awaitable, move |status, value| {
            if status == pyloop::OK {
                let result = python::PyLong_AsLong(value);
                mine.total.fetch_add(result, Ordering::Relaxed);
            }
            mine.over(status);
        });
        if started.is_err() {
            self.over(pyloop::RAISED);
            return -1;
        }
        0
    }
}

fn produce_calls(calls: &Arc<Calls>, count: u32) {
    for number in 0..count {
        let mine = calls.clone();
        let posted = calls.core.post(move |status| {
            if status == pyloop::CLOSED {
                mine.over(status);
                return 0;
            }
            unsafe { mine.call(number) }
        });
        if posted.is_err() {
            calls.left.fetch_sub(1, Ordering::Release);
        }
    }
}

/// A thread has handler(number) run to its end, count times.
#[no_mangle]
pub unsafe extern "C" fn calls(
    object: *mut Object,
    handler: *mut Object,
    count: u32,
) -> *mut Object {
    let Some(core) = Loop::of(object) else {
        return null_mut();
    };
    let calls = Arc::new(Calls {
        core,
        handler: Owned::of(handler),
        left: AtomicU32::new(count),
        total: AtomicI64::new(0),
        by_status: Default::default(),
    });
    let mine = calls.clone();
    let thread = Some(thread::spawn(move || produce_calls(&mine, count)));
    CallsHandle { calls, thread }.into_capsule()
}

#[no_mangle]
pub unsafe extern "C" fn calls_left(handle: *mut Object) -> *mut Object {
    let left = &CallsHandle::of_handle(handle).calls.left;
    python::PyLong_FromLong(left.load(Ordering::Acquire).into())
}

/// (sum of the results, ok, closed, cancelled, raised)
#[no_mangle]
pub unsafe extern "C" fn calls_outcome(handle: *mut Object) -> *mut Object {
    let calls = &CallsHandle::of_handle(handle).calls;
    let by = |status: c_int| {
        calls.by_status[-status as usize].load(Ordering::Relaxed)
    };
    python::Py_BuildValue(
        c"lIIII".as_ptr(),
        calls.total.load(Ordering::Relaxed) as c_long,
        by(pyloop::OK),
        by(pyloop::CLOSED),
        by(pyloop::CANCELLED),
        by(pyloop::RAISED),
    )
}

// -- an operation that Python awaits -----------------------------------------

#[repr(C)]
struct Operation {
    promise: Promise,
    core: Loop,
    number: c_long,
}

/// The thread's way to the operation until it is completed.
struct Running(*mut Operation);

unsafe impl Send for Running {}

impl Running {
    fn operate(self) {
        unsafe {
            let core = (*self.0).core.clone();
            (*self.0).number *= 2;
            if (api().promise_complete)(core.0, self.0.cast()) < 0 {
                drop(Box::from_raw(self.0)); // closed: ours again
            }
        }
    }
}

unsafe extern "C" fn operation_value(promise: *mut Promise) -> *mut c_void {
    let operation: *mut Operation = promise.cast();
    python::PyLong_FromLong((*operation).number).cast()
}

unsafe extern "C" fn operation_released(promise: *mut Promise, _: c_int) {
    drop(Box::<Operation>::from_raw(promise.cast()));
}

/// A future of number * 2, which a thread works out.
#[no_mangle]
pub unsafe extern "C" fn doubled(
    object: *mut Object,
    number: c_long,
) -> *mut Object {
    let Some(core) = Loop::of(object) else {
        return null_mut();
    };
    let promise = Promise::new(operation_value, operation_released);
    let kept = core.clone();
    let operation = Operation {
        promise,
        core,
        number,
    };
    let operation = Box::into_raw(Box::new(operation));
    let future = (api().promise_start)(kept.0, operation.cast(), null_mut());
    let running = Running(operation);
    if future.is_null() {
        drop(Box::from_raw(operation));
    } else {
        thread::spawn(move || running.operate());
    }
    future.cast()
}

// -- a loop held from Rust ---------------------------------------------------

impl Handle for Loop {
    const NAME: &'static CStr = c"loop";
}

#[no_mangle]
pub unsafe extern "C" fn hold(object: *mut Object) -> *mut Object {
    Loop::of(object).map_or(null_mut(), |core| core.into_capsule())
}

#[no_mangle]
pub unsafe extern "C" fn is_alive(handle: *mut Object) -> *mut Object {
    let alive = (api().is_alive)(Loop::of_handle(handle).0);
    python::PyBool_FromLong(alive.into())
}

/// The status of posting an item that does nothing.
#[no_mangle]
pub unsafe extern "C" fn post(handle: *mut Object) -> *mut Object {
    let status = Loop::of_handle(handle).post(|_| 0).err();
    python::PyLong_FromLong(status.unwrap_or(pyloop::OK).into())
}
