//! Which tests show what a function does. A test beside them checks that they exist.

/// A function, the test that shows what it does, and the one that moves a program in the middle of it.
#[rustfmt::skip]
const PROOFS: [(&str, &str, &str); 46] = [
    ("args_get", "basics::arguments_and_environment_are_given_and_move", "basics::arguments_and_environment_are_given_and_move"),
    ("args_sizes_get", "basics::arguments_and_environment_are_given_and_move", "basics::arguments_and_environment_are_given_and_move"),
    ("environ_get", "basics::arguments_and_environment_are_given_and_move", "basics::arguments_and_environment_are_given_and_move"),
    ("environ_sizes_get", "basics::arguments_and_environment_are_given_and_move", "basics::arguments_and_environment_are_given_and_move"),
    ("clock_res_get", "basics::clock_numbers_are_checked", ""),
    ("clock_time_get", "basics::clock_numbers_are_checked", "basics::monotonic_time_continues_and_does_not_pass_in_transit"),
    ("fd_advise", "files::sizes_change", ""),
    ("fd_allocate", "files::sizes_change", ""),
    ("fd_close", "files::files_are_read_written_and_sought", "streams::closed_and_renumbered_streams_stay_so"),
    ("fd_datasync", "files::files_are_read_written_and_sought", ""),
    ("fd_fdstat_get", "files::modes_are_kept", "midway::flags_and_rights_move"),
    ("fd_fdstat_set_flags", "files::modes_are_kept", "midway::flags_and_rights_move"),
    ("fd_fdstat_set_rights", "files::given_up_rights_are_lost", "midway::flags_and_rights_move"),
    ("fd_filestat_get", "files::statistics_and_times", ""),
    ("fd_filestat_set_size", "files::sizes_change", ""),
    ("fd_filestat_set_times", "files::statistics_and_times", ""),
    ("fd_pread", "files::files_are_read_written_and_sought", ""),
    ("fd_prestat_get", "files::preopened_directories_tell_their_paths", "midway::directories_are_told_on_after_a_move"),
    ("fd_prestat_dir_name", "files::preopened_directories_tell_their_paths", "midway::directories_are_told_on_after_a_move"),
    ("fd_pwrite", "files::files_are_read_written_and_sought", ""),
    ("fd_read", "files::files_are_read_written_and_sought", "streams::a_blocked_read_is_interrupted_and_loses_nothing"),
    ("fd_readdir", "files::directories_are_listed_in_order_with_any_buffer", "files::a_listing_in_progress_moves"),
    ("fd_renumber", "streams::closed_and_renumbered_streams_stay_so", "streams::closed_and_renumbered_streams_stay_so"),
    ("fd_seek", "files::files_are_read_written_and_sought", "midway::offsets_go_on"),
    ("fd_sync", "files::files_are_read_written_and_sought", ""),
    ("fd_tell", "files::files_are_read_written_and_sought", "midway::offsets_go_on"),
    ("fd_write", "streams::output_uses_all_buffers_and_is_not_repeated", "streams::a_blocked_write_is_interrupted_and_doubles_nothing"),
    ("path_create_directory", "files::names_are_made_changed_and_removed", ""),
    ("path_filestat_get", "files::statistics_and_times", ""),
    ("path_filestat_set_times", "files::statistics_and_times", ""),
    ("path_link", "files::names_are_made_changed_and_removed", ""),
    ("path_open", "files::opening_follows_the_flags", "moves::open_files_continue_where_they_were"),
    ("path_readlink", "files::names_are_made_changed_and_removed", ""),
    ("path_remove_directory", "files::names_are_made_changed_and_removed", ""),
    ("path_rename", "files::names_are_made_changed_and_removed", ""),
    ("path_symlink", "files::names_are_made_changed_and_removed", ""),
    ("path_unlink_file", "files::names_are_made_changed_and_removed", ""),
    ("poll_oneoff", "poll::streams_and_files_become_ready", "poll::an_interrupted_sleep_sleeps_the_rest_after_the_move"),
    ("proc_exit", "basics::programs_end", ""),
    ("proc_raise", "basics::programs_end", ""),
    ("sched_yield", "basics::programs_end", ""),
    ("random_get", "basics::random_numbers_never_repeat_after_a_move", "basics::random_numbers_never_repeat_after_a_move"),
    ("sock_accept", "sockets::nonblocking_sockets_say_again", "midway::an_accept_that_blocks_goes_on"),
    ("sock_recv", "sockets::a_server_talks_to_its_client", "sockets::blocked_calls_are_interrupted_without_loss"),
    ("sock_send", "sockets::a_server_talks_to_its_client", "midway::a_send_that_blocks_doubles_nothing"),
    ("sock_shutdown", "sockets::a_server_talks_to_its_client", "midway::a_connection_that_was_shut_down_stays_so"),
];

/// The tests of a function.
pub(super) fn of(name: &str) -> (&'static str, &'static str) {
    PROOFS.iter().find(|(function, ..)| *function == name).map_or(("", ""), |(_, shown, moved)| (*shown, *moved))
}
