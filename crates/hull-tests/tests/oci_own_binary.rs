//! The runtime's own binary, which nothing in a container may get at (CVE-2019-5736).

use hull_tests::Oci;

/// What the binary needs beside itself to be executed in the container, were it let.
fn with_its_libraries(oci: &Oci) {
    let listed = std::process::Command::new("ldd").arg(oci.program()).output().expect("ldd is there");
    for word in
        String::from_utf8_lossy(&listed.stdout).split_whitespace().filter(|word| word.starts_with('/'))
    {
        let there = oci.rootfs().join(&word[1..]);
        std::fs::create_dir_all(there.parent().expect("a folder")).expect("a folder");
        std::fs::copy(word, there).expect("a copy");
    }
}

#[test]
fn a_command_that_leads_to_it_is_not_executed() {
    let oci = Oci::new();
    with_its_libraries(&oci);
    let script = oci.rootfs().join("script");
    std::fs::write(&script, "#!/proc/self/exe --version\n").expect("a script");
    std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("its mode");
    for command in [&["/proc/self/exe", "--version"][..], &["/script"]] {
        oci.configure(&oci.config(command));
        let output = oci.call(&["run", "c"]);
        assert!(output.status != 0, "{command:?} was executed: {}", output.stdout);
        assert!(!output.stdout.contains("hull version"), "{command:?} was executed: {}", output.stdout);
        oci.nothing_is_left("c");
    }
}
