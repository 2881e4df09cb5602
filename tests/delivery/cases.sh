# shellcheck shell=sh
# For the tests of what is delivered: runs cases, each in a shell of its own that ends at the first command that fails, and counts
# them. What a case leaves goes below `work`, which the test has made.

passed=0
failed=0
: "${work:?}"

# it SENTENCE COMMAND...
it() {
    sentence=$1
    shift
    set +e
    (
        set -eux
        "$@"
    ) >"$work/case.log" 2>&1
    status=$?
    set -e
    if [ "$status" -eq 0 ]; then
        echo "ok      $sentence"
        passed=$((passed + 1))
    else
        echo "FAILED  $sentence"
        sed 's/^/        /' "$work/case.log" | tail -n 60
        failed=$((failed + 1))
    fi
}

# says TEXT COMMAND...: the command fails, and this is in what it says.
says() {
    text=$1
    shift
    if "$@" >"$work/said" 2>&1; then
        cat "$work/said"
        echo "it was expected to fail with: $text"
        return 1
    fi
    grep -qF -- "$text" "$work/said" || {
        cat "$work/said"
        echo "it was expected to say: $text"
        return 1
    }
}

# never COMMAND...: `set -e` takes no notice of a plain `!`.
never() {
    if "$@"; then
        return 1
    fi
}

# is ACTUAL EXPECTED
is() {
    [ "$1" = "$2" ] || {
        printf 'it is      "%s"\nand not    "%s"\n' "$1" "$2"
        return 1
    }
}

close() {
    echo "$passed passed, $failed failed"
    [ "$failed" -eq 0 ]
}
