//! The thin typed kernel calls that rustix lacks. Unsafe code of this crate is here and in `container`.
#![allow(unsafe_code)]
