use super::*;

const NAMES: [&str; 7] = ["conf", "db", "format", "snap.1", "snap.2", "snap.3", "x"];

/// A store that was built in this directory, and is not in its place yet.
fn build(building: &Path) {
    fs::create_dir_all(building.join("blobs")).unwrap();
    for name in NAMES.into_iter().chain([LOCK]) {
        fs::write(building.join(name), name).unwrap();
    }
}

fn names_in(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// Whoever is killed between two moves leaves no log without all that belongs to it.
#[test]
fn the_log_of_a_restored_store_comes_to_its_place_after_all_else() {
    let place = tempfile::tempdir().unwrap();
    let building = place.path().join(RESTORE);
    build(&building);
    fs::write(place.path().join("db"), "somebody's").unwrap();
    let mut moved = Vec::new();
    let error = take_out(&building, place.path(), &mut moved).unwrap_err();
    assert!(error.to_string().contains("db can not be made"), "{error:#}");
    moved.sort();
    let expected = ["blobs", "conf", "format", "snap.1", "snap.2", "snap.3", "x"];
    assert_eq!(moved, expected.map(|name| place.path().join(name)));
    assert_eq!(fs::read_to_string(place.path().join("db")).unwrap(), "somebody's");
}

#[test]
fn f24_whenever_a_migration_is_killed_the_next_one_removes_what_it_has_left_and_nothing_else() {
    for kept in 0..=NAMES.len() + 1 {
        let place = tempfile::tempdir().unwrap();
        let store = place.path();
        let building = store.join(MIGRATION);
        build(&building);
        let mut moved = Vec::new();
        take_out(&building, store, &mut moved).unwrap();
        // It was killed after so many moves.
        for path in moved.get(kept..).unwrap() {
            fs::rename(path, building.join(path.file_name().unwrap())).unwrap();
        }
        // A daemon was started there in vain.
        fs::write(store.join(LOCK), "1\n").unwrap();
        assert!(
            check_no_store(store)
                .unwrap_err()
                .to_string()
                .contains("give the same acme-proxy migrate again")
        );
        let mut site = Site::look(store).unwrap();
        if kept == moved.len() {
            assert_eq!(site.left, Left::Finished);
            let before = names_in(store);
            assert!(site.check_free().is_err());
            site.clear().unwrap();
            let after = names_in(store);
            assert_eq!(before.len(), after.len() + 1);
            assert!(!after.contains(&MIGRATION.to_owned()), "{after:?}");
            continue;
        }
        assert!(site.has_parts());
        site.check_free().unwrap();
        fs::write(store.join("notes"), "somebody's").unwrap();
        let why = site.check_free().unwrap_err().to_string();
        assert!(why.contains("there is notes in"), "{why}");
        let before = names_in(store);
        drop(Site::look(store));
        assert_eq!(names_in(store), before, "to look changes nothing");
        fs::remove_file(store.join("notes")).unwrap();
        site.remove_lock().unwrap();
        site.clear().unwrap();
        assert!(names_in(store).is_empty(), "{:?}", names_in(store));
    }
}

#[test]
fn what_was_not_moved_by_a_migration_is_none_of_its_parts() {
    let place = tempfile::tempdir().unwrap();
    let store = place.path().join("store");
    let building = store.join(MIGRATION);
    fs::create_dir_all(&building).unwrap();
    fs::write(place.path().join("other"), "somebody's").unwrap();
    fs::write(building.join(LIST), "../other\n..\n/etc/passwd\nconf\n").unwrap();
    let mut site = Site::look(&store).unwrap();
    assert_eq!(site.left, Left::Unfinished(vec!["conf".into()]));
    site.clear().unwrap();
    drop(site);
    assert_eq!(names_in(place.path()), ["other", "store"]);
    // A restoration's is its own.
    fs::create_dir(store.join(RESTORE)).unwrap();
    let site = Site::look(&store).unwrap();
    assert_eq!(site.left, Left::Nothing);
    assert!(site.check_free().is_err());
    // Neither is a link to somewhere else.
    fs::remove_dir(store.join(RESTORE)).unwrap();
    drop(site);
    std::os::unix::fs::symlink(place.path(), &building).unwrap();
    let site = Site::look(&store).unwrap();
    assert_eq!(site.left, Left::Nothing);
    assert!(site.check_free().is_err());
}

#[test]
fn one_migration_at_a_time_leads_into_a_directory() {
    let place = tempfile::tempdir().unwrap();
    let first = Site::look(place.path()).unwrap();
    let why = Site::look(place.path()).err().unwrap().to_string();
    assert!(why.contains("another migration into"), "{why}");
    drop(first);
    Site::look(place.path()).unwrap();
}
