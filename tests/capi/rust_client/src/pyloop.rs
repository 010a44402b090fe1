//! pyloop.h, by hand.  The test compares layout() with what the C compiler
//! makes of the installed header, member by member.

use std::ffi::{c_int, c_void};
use std::mem::MaybeUninit;

pub const API_VERSION: u32 = 1;

pub const OK: c_int = 0;
pub const CLOSED: c_int = -1;
pub const CANCELLED: c_int = -2;
pub const RAISED: c_int = -3;

pub const TASK_EAGER: u32 = 1;

#[repr(C)]
pub struct Loop {
    opaque: [u8; 0],
}

#[repr(C)]
pub struct Work {
    pub next: *mut Work,
    pub size: u32,
    pub flags: u32,
    pub run: unsafe extern "C" fn(*mut Work, c_int) -> c_int,
    pub context: *mut c_void,
}

pub type TaskDone = unsafe extern "C" fn(*mut Task, c_int, *mut c_void);

#[repr(C)]
pub struct Task {
    pub size: u32,
    pub flags: u32,
    pub done: TaskDone,
    pub context: *mut c_void,
    pub name: *mut c_void,
    cancel_work: MaybeUninit<Work>, // pyloop's own, as is the rest
    object: *mut c_void,
    runner: *mut c_void,
    previous: *mut Task,
    next: *mut Task,
    state: u32,
    reserved: u32,
}

pub type PromiseValue = unsafe extern "C" fn(*mut Promise) -> *mut c_void;
pub type PromiseReleased = unsafe extern "C" fn(*mut Promise, c_int);

#[repr(C)]
pub struct Promise {
    pub size: u32,
    pub flags: u32,
    pub value: PromiseValue,
    pub cancelled: Option<unsafe extern "C" fn(*mut Promise)>,
    pub released: PromiseReleased,
    work: MaybeUninit<Work>, // pyloop's own, as is the rest
    owner: *mut c_void,
    future: *mut c_void,
    watcher: *mut c_void,
    previous: *mut Promise,
    next: *mut Promise,
}

/// The table up to what this client calls; a later pyloop has more.
#[repr(C)]
pub struct Api {
    pub size: u32,
    pub version: u32,
    pub loop_from: unsafe extern "C" fn(*mut c_void) -> *mut Loop,
    pub loop_running: unsafe extern "C" fn() -> *mut Loop,
    pub acquire: unsafe extern "C" fn(*mut Loop),
    pub release: unsafe extern "C" fn(*mut Loop),
    pub is_alive: unsafe extern "C" fn(*mut Loop) -> c_int,
    pub post: unsafe extern "C" fn(*mut Loop, *mut Work) -> c_int,
    pub post_chain: unsafe extern "C" fn(*mut Loop, *mut Work) -> c_int,
    pub task_start:
        unsafe extern "C" fn(*mut Loop, *mut Task, *mut c_void) -> c_int,
    pub task_cancel: unsafe extern "C" fn(*mut Loop, *mut Task) -> c_int,
    pub promise_start: unsafe extern "C" fn(
        *mut Loop,
        *mut Promise,
        *mut c_void,
    ) -> *mut c_void,
    pub promise_complete:
        unsafe extern "C" fn(*mut Loop, *mut Promise) -> c_int,
}

impl Work {
    pub fn new(run: unsafe extern "C" fn(*mut Work, c_int) -> c_int) -> Work {
        Work {
            next: std::ptr::null_mut(),
            size: size_of::<Work>() as u32,
            flags: 0,
            run,
            context: std::ptr::null_mut(),
        }
    }
}

impl Task {
    pub fn new(done: TaskDone) -> Task {
        let null = std::ptr::null_mut();
        Task {
            size: size_of::<Task>() as u32,
            flags: 0,
            done,
            context: null,
            name: null,
            cancel_work: MaybeUninit::uninit(),
            object: null,
            runner: null,
            previous: std::ptr::null_mut(),
            next: std::ptr::null_mut(),
            state: 0,
            reserved: 0,
        }
    }
}

impl Promise {
    pub fn new(value: PromiseValue, released: PromiseReleased) -> Promise {
        let null = std::ptr::null_mut();
        Promise {
            size: size_of::<Promise>() as u32,
            flags: 0,
            value,
            cancelled: None,
            released,
            work: MaybeUninit::uninit(),
            owner: null,
            future: null,
            watcher: null,
            previous: std::ptr::null_mut(),
            next: std::ptr::null_mut(),
        }
    }
}

macro_rules! layout {
    ($($c:literal $rust:ident: $($c_field:literal = $field:ident),*;)*) => {
        /// Lines of "struct member offset", each struct's size last.
        pub fn layout() -> String {
            let mut text = String::new();
            $(
                $(
                    text += &format!(
                        "{} {} {}\n",
                        $c,
                        $c_field,
                        std::mem::offset_of!($rust, $field)
                    );
                )*
                text += &format!("{} - {}\n", $c, size_of::<$rust>());
            )*
            text
        }
    };
}

layout! {
    "pyloop_work" Work: "next" = next, "size" = size, "flags" = flags,
        "run" = run, "context" = context;
    "pyloop_task" Task: "size" = size, "flags" = flags, "done" = done,
        "context" = context, "name" = name, "cancel_work" = cancel_work,
        "object" = object, "runner" = runner, "previous" = previous,
        "next" = next, "state" = state, "reserved" = reserved;
    "pyloop_promise" Promise: "size" = size, "flags" = flags,
        "value" = value, "cancelled" = cancelled, "released" = released,
        "work" = work, "loop" = owner, "future" = future,
        "watcher" = watcher, "previous" = previous, "next" = next;
    "pyloop_api" Api: "size" = size, "version" = version,
        "loop_from" = loop_from, "loop_running" = loop_running,
        "acquire" = acquire, "release" = release, "is_alive" = is_alive,
        "post" = post, "post_chain" = post_chain,
        "task_start" = task_start, "task_cancel" = task_cancel,
        "promise_start" = promise_start,
        "promise_complete" = promise_complete;
}
