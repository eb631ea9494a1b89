-- Checks the cryptography of tools/peermux.lua against peermux-core/vectors/records.json, in any Lua outside Wireshark:
--
--   python3 tests/dissector/records.py | lua5.4 tests/dissector/crypto.lua tools/peermux.lua
--
-- Each line is a record: suite, key, n, size of the next, key update (0 or 1), end (0 or 1), key of the next, and the record itself.

local lib = dofile(arg[1])
local count = 0
for line in io.lines() do
    local suite, key, n, next_size, key_update, ends, next_key, record =
        line:match("^(%d) (%x+) (%d+) (%d+) (%d) (%d) (%x+) (%x+)$")
    suite, key, next_key, record = lib.suites[tonumber(suite)], lib.from_hex(key), lib.from_hex(next_key), lib.from_hex(record)
    local nonce = lib.nonce_of(suite, tonumber(n))
    assert(lib.is_authentic(suite, key, nonce, record), "a tag")
    assert(not lib.is_authentic(suite, key, nonce, "\1" .. record:sub(2)) or record:byte() == 1, "a tag of another record")
    local header = lib.decrypt(suite, key, nonce, record:sub(1, -17)):byte()
    assert(header == next_size - 1 + 16 * key_update + 32 * ends, "a header")
    assert(next_key == (key_update == "1" and lib.rekey(suite, key) or key), "a key")
    count = count + 1
end
assert(count > 0, "no records")
print(_VERSION .. ": " .. count .. " records")
