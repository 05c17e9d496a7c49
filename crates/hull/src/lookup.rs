//! How hosts are looked up by a binary that has the C library in itself.
#![allow(unsafe_code)] // one call of the C library's

/// Has hosts looked up in `/etc/hosts` and by DNS, whatever nsswitch.conf says: both are in the C library itself. Other
/// modules (`resolve`, `mymachines`, `mdns4_minimal`) are shared objects, loaded together with the machine's own C
/// library, and where that is of another version than the one in this binary they end in a crash. What `resolve` knows
/// is known to its DNS server too, which resolv.conf names.
#[cfg(hull_static)]
pub fn by_hosts_and_dns() {
    unsafe extern "C" {
        /// glibc's nss.h: overrides what nsswitch.conf says of a database.
        fn __nss_configure_lookup(
            database: *const std::ffi::c_char,
            services: *const std::ffi::c_char,
        ) -> std::ffi::c_int;
    }
    // SAFETY: two strings that end with a zero and outlive the call, which copies what it keeps; no other thread runs yet.
    unsafe { __nss_configure_lookup(c"hosts".as_ptr(), c"files dns".as_ptr()) };
}

/// A binary that shares the machine's C library has all that nsswitch.conf names.
#[cfg(not(hull_static))]
pub fn by_hosts_and_dns() {}
