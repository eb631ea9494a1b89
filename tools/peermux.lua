-- A Wireshark dissector for peermux/1: the three flights, and with a key log records, frames and streams.
--
--   wireshark -X lua_script:tools/peermux.lua -o peermux.key_log:FILE capture.pcap
--   tshark    -X lua_script:tools/peermux.lua -o peermux.key_log:FILE -r capture.pcap -Y peermux -V
--
-- Or put it into the folder of personal Lua plugins, and name the file under Preferences, Protocols, PEERMUX; the environment variable
-- PEERMUX_KEY_LOG names it as well. The file is what an application writes whose configuration has a key log (`Config::key_log`), one line for each direction:
--
--   PEERMUX_I2R ephemeral suite key
--   PEERMUX_R2I ephemeral suite key
--
-- The examples tunnel, perf and mio, and the commands of renter_host, write it with `--key-log FILE`. Whoever has it reads and forges everything.
--
-- Any port will do: a connection is known by its first flight, since random bytes are no ML-KEM encapsulation key. The capture must have its beginning
-- and all of its segments, whole; where they are out of order, add `-o tcp.reassemble_out_of_order:TRUE`.
--
-- The key log holds traffic keys only, so the payloads of the flights, with settings and early data, stay closed; and so does flight 3 in fallback. Streams that
-- are opened there have no names here.
-- Tags are checked only if the preference `check_tags` says so, since it takes long: about 1 MB of ChaCha20 is read in a second, or somewhat less of AES.
-- In Lua outside Wireshark this file is a module of its cryptography, for tests/dissector/crypto.lua.
--
-- Wireshark 4.0 and later: Lua 5.2 to 5.4. The protocol is specified in docs/spec.md.

local QUANTUM, TAG, FIRST_AREA = 1408, 16, 1136
local floor, byte, char, rep = math.floor, string.byte, string.char, string.rep
local unpack = table.unpack or unpack

-- Cryptography -------------------------------------------------------------------------------------------------------

-- On words of 32 bits. Lua 5.2 has a library for it, Lua 5.4 operators.
local bits = bit32 or load [[
    local function fold(step) return function(a, ...)
        for _, b in ipairs { ... } do a = step(a, b) end
        return a
    end end
    local function rol(a, n) n = n % 32; return (a << n | a >> (32 - n)) & 0xffffffff end
    return {
        band = fold(function(a, b) return a & b end), bxor = fold(function(a, b) return a ~ b end),
        bor = fold(function(a, b) return a | b end), lrotate = rol, rrotate = function(a, n) return rol(a, 32 - n) end,
        lshift = function(a, n) return a << n & 0xffffffff end, rshift = function(a, n) return a >> n end,
    }
]]()
local band, bxor, bor, rol, ror = bits.band, bits.bxor, bits.bor, bits.lrotate, bits.rrotate
local lshift, rshift = bits.lshift, bits.rshift

local function le32(text, at)
    local a, b, c, d = byte(text, at, at + 3)
    return a + b * 0x100 + c * 0x10000 + d * 0x1000000
end

local function be32(text, at)
    local a, b, c, d = byte(text, at, at + 3)
    return a * 0x1000000 + b * 0x10000 + c * 0x100 + d
end

local function chacha_block(key, nonce, counter)
    local first = { 0x61707865, 0x3320646e, 0x79622d32, 0x6b206574 }
    for i = 0, 7 do first[5 + i] = le32(key, 1 + 4 * i) end
    first[13] = counter
    for i = 0, 2 do first[14 + i] = le32(nonce, 1 + 4 * i) end
    local x = { unpack(first) }
    local function quarter(a, b, c, d)
        local xa, xb, xc, xd = x[a], x[b], x[c], x[d]
        xa = (xa + xb) % 0x100000000; xd = rol(bxor(xd, xa), 16)
        xc = (xc + xd) % 0x100000000; xb = rol(bxor(xb, xc), 12)
        xa = (xa + xb) % 0x100000000; xd = rol(bxor(xd, xa), 8)
        xc = (xc + xd) % 0x100000000; xb = rol(bxor(xb, xc), 7)
        x[a], x[b], x[c], x[d] = xa, xb, xc, xd
    end
    for _ = 1, 10 do
        quarter(1, 5, 9, 13); quarter(2, 6, 10, 14); quarter(3, 7, 11, 15); quarter(4, 8, 12, 16)
        quarter(1, 6, 11, 16); quarter(2, 7, 12, 13); quarter(3, 8, 9, 14); quarter(4, 5, 10, 15)
    end
    local out = {}
    for i = 1, 16 do
        local word = (x[i] + first[i]) % 0x100000000
        for _ = 1, 4 do
            out[#out + 1] = word % 256
            word = floor(word / 256)
        end
    end
    return out
end

-- The tables of AES: its box, and the box with MixColumns behind it.
local BOX, MIXED = {}, {}
do
    local p, q = 1, 1
    repeat
        p = band(bxor(p, p * 2, p >= 128 and 0x11b or 0), 255)
        q = bxor(q, q * 2); q = bxor(q, q * 4); q = band(bxor(q, q * 16), 255)
        if q >= 128 then q = bxor(q, 9) end
        local r = bor(q, q * 256)
        BOX[p] = bxor(band(bxor(r, rshift(r, 7), rshift(r, 6), rshift(r, 5), rshift(r, 4)), 255), 0x63)
    until p == 1
    BOX[0] = 0x63
    for i = 0, 255 do
        local s = BOX[i]
        local double = band(bxor(s * 2, s >= 128 and 0x11b or 0), 255)
        MIXED[i] = double * 0x1000000 + s * 0x10000 + s * 0x100 + bxor(double, s)
    end
end

local aes_keys = setmetatable({}, { __mode = "k" })
local function aes_schedule(key)
    local known = aes_keys[key]
    if known then return known end
    local function sub(word)
        return BOX[rshift(word, 24)] * 0x1000000 + BOX[band(rshift(word, 16), 255)] * 0x10000
            + BOX[band(rshift(word, 8), 255)] * 0x100 + BOX[band(word, 255)]
    end
    local w, round = {}, 1
    for i = 0, 7 do w[i] = be32(key, 1 + 4 * i) end
    for i = 8, 59 do
        local word = w[i - 1]
        if i % 8 == 0 then
            word = bxor(sub(rol(word, 8)), round * 0x1000000)
            round = round * 2
        elseif i % 8 == 4 then
            word = sub(word)
        end
        w[i] = bxor(w[i - 8], word)
    end
    aes_keys[key] = w
    return w
end

local function aes_block(w, a, b, c, d)
    a, b, c, d = bxor(a, w[0]), bxor(b, w[1]), bxor(c, w[2]), bxor(d, w[3])
    local function column(p, q, r, s, key)
        return bxor(MIXED[rshift(p, 24)], ror(MIXED[band(rshift(q, 16), 255)], 8),
            ror(MIXED[band(rshift(r, 8), 255)], 16), ror(MIXED[band(s, 255)], 24), key)
    end
    for i = 4, 52, 4 do
        a, b, c, d = column(a, b, c, d, w[i]), column(b, c, d, a, w[i + 1]),
            column(c, d, a, b, w[i + 2]), column(d, a, b, c, w[i + 3])
    end
    local function last(p, q, r, s, key)
        return bxor(BOX[rshift(p, 24)] * 0x1000000 + BOX[band(rshift(q, 16), 255)] * 0x10000
            + BOX[band(rshift(r, 8), 255)] * 0x100 + BOX[band(s, 255)], key)
    end
    return last(a, b, c, d, w[56]), last(b, c, d, a, w[57]), last(c, d, a, b, w[58]), last(d, a, b, c, w[59])
end

local function aes_ctr_block(key, nonce, counter)
    local out = {}
    for _, word in ipairs { aes_block(aes_schedule(key), be32(nonce, 1), be32(nonce, 5), be32(nonce, 9), counter) } do
        for shift = 24, 0, -8 do out[#out + 1] = band(rshift(word, shift), 255) end
    end
    return out
end

-- The tag of ChaCha20-Poly1305 without additional data, in limbs of 8 bits.
local function poly1305(key, nonce, sealed)
    local once = chacha_block(key, nonce, 0)
    local r, h = {}, {}
    for j = 1, 17 do r[j], h[j] = once[j], 0 end
    r[17] = 0
    for _, j in ipairs { 4, 8, 12, 16 } do r[j] = r[j] % 16 end
    for _, j in ipairs { 5, 9, 13 } do r[j] = r[j] - r[j] % 4 end
    local function add(c)
        local u = 0
        for j = 1, 17 do
            u = u + h[j] + c[j]
            h[j], u = u % 256, floor(u / 256)
        end
    end
    local text = sealed .. rep("\0", -#sealed % 16) .. rep("\0", 8)
    for shift = 0, 7 do text = text .. char(floor(#sealed / 256 ^ shift) % 256) end
    for at = 1, #text, 16 do
        local c = { byte(text, at, at + 15) }
        c[17] = 1
        add(c)
        local x = {}
        for i = 1, 17 do
            local sum = 0
            for j = 1, 17 do
                sum = sum + h[j] * (j <= i and r[i + 1 - j] or 320 * r[i + 18 - j])
            end
            x[i] = sum
        end
        local u = 0
        for j = 1, 16 do
            u = u + x[j]
            h[j], u = u % 256, floor(u / 256)
        end
        u = u + x[17]
        h[17], u = u % 4, 5 * floor(u / 4)
        for j = 1, 16 do
            u = u + h[j]
            h[j], u = u % 256, floor(u / 256)
        end
        h[17] = h[17] + u
    end
    local before = { unpack(h) }
    add { 5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 252 }
    if h[17] >= 128 then h = before end
    local s = { unpack(once, 17, 32) }
    s[17] = 0
    add(s)
    return char(unpack(h, 1, 16))
end

-- The tag of AES-256-GCM without additional data.
local function gcm_tag(key, nonce, sealed)
    local w = aes_schedule(key)
    local h1, h2, h3, h4 = aes_block(w, 0, 0, 0, 0)
    local y1, y2, y3, y4 = 0, 0, 0, 0
    local function block(b1, b2, b3, b4)
        local x = { bxor(y1, b1), bxor(y2, b2), bxor(y3, b3), bxor(y4, b4) }
        local v1, v2, v3, v4 = h1, h2, h3, h4
        y1, y2, y3, y4 = 0, 0, 0, 0
        for i = 1, 4 do
            local word = x[i]
            for _ = 1, 32 do
                if word >= 0x80000000 then
                    y1, y2, y3, y4 = bxor(y1, v1), bxor(y2, v2), bxor(y3, v3), bxor(y4, v4)
                end
                word = lshift(word, 1)
                local odd = v4 % 2 == 1
                v4 = bor(rshift(v4, 1), lshift(v3, 31))
                v3 = bor(rshift(v3, 1), lshift(v2, 31))
                v2 = bor(rshift(v2, 1), lshift(v1, 31))
                v1 = rshift(v1, 1)
                if odd then v1 = bxor(v1, 0xe1000000) end
            end
        end
    end
    local text = sealed .. rep("\0", -#sealed % 16)
    for at = 1, #text, 16 do
        block(be32(text, at), be32(text, at + 4), be32(text, at + 8), be32(text, at + 12))
    end
    block(0, 0, 0, #sealed * 8)
    local out = aes_ctr_block(key, nonce, 1)
    for i, word in ipairs { y1, y2, y3, y4 } do
        for j = 0, 3 do
            local at = 4 * i - 3 + j
            out[at] = bxor(out[at], band(rshift(word, 24 - 8 * j), 255))
        end
    end
    return char(unpack(out))
end

local SUITES = {
    [1] = { name = "ChaCha20-Poly1305", block = chacha_block, first = 1, size = 64, tag = poly1305, big = false },
    [2] = { name = "AES-256-GCM", block = aes_ctr_block, first = 2, size = 16, tag = gcm_tag, big = true },
}

-- The nonce of record `n`.
local function nonce_of(suite, n)
    local text = ""
    for _ = 1, 8 do
        text = suite.big and char(n % 256) .. text or text .. char(n % 256)
        n = floor(n / 256)
    end
    return "\0\0\0\0" .. text
end

-- `data` without its tag; encrypts as well.
local function decrypt(suite, key, nonce, data)
    local parts, counter = {}, suite.first
    for at = 1, #data, suite.size do
        local stream = suite.block(key, nonce, counter)
        local piece = { byte(data, at, at + suite.size - 1) }
        for i = 1, #piece do piece[i] = bxor(piece[i], stream[i]) end
        parts[#parts + 1] = char(unpack(piece))
        counter = counter + 1
    end
    return table.concat(parts)
end

local function is_authentic(suite, key, nonce, record)
    return suite.tag(key, nonce, record:sub(1, -TAG - 1)) == record:sub(-TAG)
end

-- REKEY of section 8.4.
local function rekey(suite, key)
    return decrypt(suite, key, "\0\0\0\0" .. rep("\255", 8), rep("\0", 32))
end

local function from_hex(text)
    return (text:gsub("%x%x", function(pair) return char(tonumber(pair, 16)) end))
end

if not Proto then
    return { suites = SUITES, nonce_of = nonce_of, decrypt = decrypt, is_authentic = is_authentic, rekey = rekey, from_hex = from_hex }
end

-- The protocol and its fields ----------------------------------------------------------------------------------------

local peermux = Proto("peermux", "peermux/1")
peermux.prefs.key_log = Pref.string("Key log", os.getenv("PEERMUX_KEY_LOG") or "", "A file with lines PEERMUX_I2R and PEERMUX_R2I")
peermux.prefs.check_tags = Pref.bool("Check tags", false, "Check that each record is authentic, which takes long")

local FRAMES = {
    [0] = "PADDING", "PING", "PONG", "MAX_DATA", "MAX_STREAM_DATA", "MAX_STREAMS", "RESET", "STOP", "OPEN", "PRIORITY", "CLOSE", "DRAIN",
    "SETTINGS", "ATTESTATION", [0x10] = "STREAM", [0x11] = "STREAM", [0x12] = "STREAM", [0x13] = "STREAM",
}
local CODES = {
    [0] = "NO_ERROR", "INTERNAL", "FRAME_ENCODING", "FRAME_UNKNOWN", "FRAME_NOT_ALLOWED", "STREAM_STATE", "STREAM_LIMIT", "STREAM_ID",
    "FLOW_CONTROL", "SETTINGS_INVALID", "RECORD_INVALID", "KEY_LIMIT", "EXCESSIVE_LOAD", "REFUSED", "DECISION_TIMEOUT", "IDLE_TIMEOUT",
    "SHAPING_REFUSED", "DUPLICATE", "GOING_AWAY", "UNKNOWN_PROTOCOL", "CANCELLED",
}
local LAYERS = { [0] = "application", "peermux" }

local f = {
    direction = ProtoField.string("peermux.direction", "Direction"),
    flight = ProtoField.string("peermux.flight", "Flight"),
    mode = ProtoField.string("peermux.mode", "Mode"),
    ephemeral = ProtoField.bytes("peermux.ephemeral", "Ephemeral key"),
    kem_key = ProtoField.bytes("peermux.kem_key", "ML-KEM-768 encapsulation key"),
    sealed = ProtoField.bytes("peermux.sealed", "Encrypted"),
    suite = ProtoField.string("peermux.suite", "Suite"),
    number = ProtoField.uint64("peermux.record.number", "Record number"),
    quanta = ProtoField.uint8("peermux.record.quanta", "Quanta"),
    authentic = ProtoField.bool("peermux.record.authentic", "Authentic"),
    header = ProtoField.uint8("peermux.record.header", "Header", base.HEX),
    next_size = ProtoField.uint8("peermux.record.next", "Quanta of the next record, minus 1", base.DEC, nil, 0x0f),
    key_update = ProtoField.bool("peermux.record.key_update", "Key update", 8, nil, 0x10),
    ends = ProtoField.bool("peermux.record.end", "End", 8, nil, 0x20),
    reserved = ProtoField.uint8("peermux.record.reserved", "Reserved", base.HEX, nil, 0xc0),
    tag = ProtoField.bytes("peermux.record.tag", "Tag"),
    frame = ProtoField.string("peermux.frame", "Frame"),
    kind = ProtoField.uint16("peermux.frame.type", "Type", base.HEX),
    stream = ProtoField.uint64("peermux.stream", "Stream"),
    fin = ProtoField.bool("peermux.stream.fin", "FIN", 8, nil, 0x01),
    len = ProtoField.bool("peermux.stream.len", "LEN", 8, nil, 0x02),
    protocol = ProtoField.string("peermux.protocol", "Protocol"),
    priority = ProtoField.uint8("peermux.priority", "Priority", base.HEX),
    urgency = ProtoField.uint8("peermux.priority.urgency", "Urgency", base.DEC, nil, 0x07),
    incremental = ProtoField.bool("peermux.priority.incremental", "Incremental", 8, nil, 0x08),
    form = ProtoField.uint64("peermux.open.form", "Form of the name"),
    maximum = ProtoField.uint64("peermux.maximum", "Maximum"),
    window = ProtoField.uint64("peermux.window", "Window"),
    layer = ProtoField.uint8("peermux.layer", "Layer", base.DEC, LAYERS),
    code = ProtoField.uint64("peermux.code", "Code"),
    reason = ProtoField.string("peermux.reason", "Reason"),
    length = ProtoField.uint64("peermux.length", "Length"),
    payload = ProtoField.bytes("peermux.payload", "Payload"),
    ping = ProtoField.bytes("peermux.ping", "Data"),
    other = ProtoField.bytes("peermux.bytes", "Bytes"),
}
peermux.fields = f
local malformed = ProtoExpert.new("peermux.malformed", "Cannot be read", expert.group.MALFORMED, expert.severity.ERROR)
local closed = ProtoExpert.new("peermux.no_key", "No key in the key log", expert.group.DECRYPTION, expert.severity.NOTE)
peermux.experts = { malformed, closed }

-- The key log --------------------------------------------------------------------------------------------------------

local keys, keys_from = {}, nil

-- The keys of the connection with this ephemeral key. The file is read again whenever it has changed: captures may be live.
local function keys_for(ephemeral)
    local path = peermux.prefs.key_log
    if keys[ephemeral] and keys[ephemeral].I2R and keys[ephemeral].R2I then return keys[ephemeral] end
    local file = path ~= "" and io.open(path, "r")
    if not file then return nil end
    local state = path .. ":" .. file:seek("end")
    if state ~= keys_from then
        keys_from = state
        file:seek("set")
        for line in file:lines() do
            local direction, name, suite, key = line:match("^PEERMUX_(%u%d%u) (%x+) (%d+) (%x+)%s*$")
            if direction and #name == 64 and #key == 64 and SUITES[tonumber(suite)] then
                name = from_hex(name)
                keys[name] = keys[name] or {}
                keys[name].suite = SUITES[tonumber(suite)]
                keys[name][direction] = from_hex(key)
            end
        end
    end
    file:close()
    local found = keys[ephemeral]
    return found and found.I2R and found.R2I and found
end

-- Connections --------------------------------------------------------------------------------------------------------

-- By their two ends, and of those with the same ends the oldest first. Each knows its two directions, and its units, which are flights and records, by
-- their first 16 bytes: these are ciphertext, or a key, and so never the same for two. So a unit is found again however often and in whatever order
-- it is looked at.
local connections = {}

function peermux.init()
    connections, keys, keys_from = {}, {}, nil
end

-- Whether a connection begins here: behind 32 bytes stand 768 numbers below 3329, of 12 bits each, and about half of them are in its upper half.
local function begins(tvb)
    if tvb:len() < 32 + 1152 then return false end
    local data, upper = tvb:raw(32, 1152), 0
    for at = 1, 1152, 3 do
        local a, b, c = byte(data, at, at + 2)
        local first, second = a + b % 16 * 256, floor(b / 16) + c * 16
        if first >= 3329 or second >= 3329 then return false end
        upper = upper + (first > 1664 and 1 or 0) + (second > 1664 and 1 or 0)
    end
    return upper > 284 and upper < 484
end

-- The connection that a packet belongs to, and its direction; nil if it is none that was seen to begin.
local function connection_for(tvb, pinfo)
    local from = tostring(pinfo.src) .. " " .. pinfo.src_port
    local to = tostring(pinfo.dst) .. " " .. pinfo.dst_port
    local ends = from < to and from .. " " .. to or to .. " " .. from
    local same = connections[ends] or {}
    connections[ends] = same
    local connection
    for _, one in ipairs(same) do
        if one.first <= pinfo.number then connection = one end
    end
    -- The ends may have had another connection before. One whose M1 is not complete is looked at again.
    local known = connection and (connection.I2R.phase == "M1" or connection.units["I2R" .. tvb:raw(0, math.min(16, tvb:len()))])
    if not pinfo.visited and not known and begins(tvb) then
        connection = {
            first = pinfo.number,
            initiator = from,
            units = {},
            streams = {},
            I2R = { name = "i2r", phase = "M1", size = 2 * QUANTUM, names = {}, n = 0 },
            R2I = { name = "r2i", phase = "M2", size = QUANTUM, names = {}, n = 0 },
        }
        table.insert(same, connection)
    end
    if not connection then return nil end
    local side = from == connection.initiator and "I2R" or "R2I"
    return connection, connection[side], side
end

-- What follows a record, by its header.
local function follow(direction, header)
    direction.n = direction.n + 1
    direction.size = (header % 16 + 1) * QUANTUM
    if band(header, 0x10) ~= 0 then direction.key = rekey(direction.suite, direction.key) end
    if band(header, 0x20) ~= 0 then direction.phase = "over" end
    if header >= 0x40 then direction.phase = "lost" end
end

-- Opens the record `data`, which is the next one.
local function open_record(direction, data, area)
    local nonce = nonce_of(direction.suite, direction.n)
    local unit = { kind = "record", n = direction.n, suite = direction.suite, size = #data, area = area }
    unit.plain = decrypt(direction.suite, direction.key, nonce, data:sub(1, -TAG - 1))
    if peermux.prefs.check_tags then unit.authentic = is_authentic(direction.suite, direction.key, nonce, data) end
    follow(direction, byte(unit.plain))
    return unit
end

-- Flight 3 is a record in IK, which its zeros prove, and a message of the handshake in fallback.
local function flight_3(connection, direction, data)
    direction.phase = "records"
    if not direction.key then
        direction.phase = "closed"
        return { kind = "flight 3", size = #data }
    end
    local plain = decrypt(direction.suite, direction.key, nonce_of(direction.suite, 0), data:sub(1, -TAG - 1))
    if not plain:sub(2 + FIRST_AREA):find("[^%z]") then
        connection.mode = "IK"
        local unit = open_record(direction, data, FIRST_AREA)
        unit.flight = "flight 3"
        return unit
    end
    connection.mode = "fallback"
    -- P3 says how large the first record is, and cannot be read; but its tag tells.
    direction.guess = true
    return { kind = "flight 3", size = #data }
end

-- Finds the next unit, of which `data` holds the first bytes, and goes on behind it. Nil and the length that is needed, if that is more.
local function next_unit(connection, direction, side, data)
    if direction.phase == "over" or direction.phase == "lost" then return { kind = direction.phase, size = #data } end
    if side == "I2R" and direction.phase ~= "M1" or side == "R2I" and direction.phase ~= "M2" then
        local found = not direction.key and connection.ephemeral and keys_for(connection.ephemeral)
        if found then direction.suite, direction.key = found.suite, found[side] end
    end
    if direction.phase == "closed" or direction.phase == "records" and not direction.key then
        return { kind = "closed", size = #data }
    end
    if #data < direction.size then return nil, direction.size end
    if direction.guess then
        local nonce = nonce_of(direction.suite, 0)
        if not is_authentic(direction.suite, direction.key, nonce, data:sub(1, direction.size)) then
            direction.size = direction.size + QUANTUM
            if direction.size > 16 * QUANTUM then direction.phase = "lost" end
            return next_unit(connection, direction, side, data)
        end
        direction.guess = nil
    end
    data = data:sub(1, direction.size)
    local unit
    if direction.phase == "M1" then
        connection.ephemeral = data:sub(1, 32)
        unit = { kind = "M1", size = #data }
        direction.phase, direction.size = "flight 3", QUANTUM
    elseif direction.phase == "M2" then
        unit = { kind = "M2", size = #data }
        direction.phase = "records"
    elseif direction.phase == "flight 3" then
        unit = flight_3(connection, direction, data)
    else
        unit = open_record(direction, data)
    end
    return unit
end

-- Frames -------------------------------------------------------------------------------------------------------------

-- Reads an area from its front; every method fails with an error where nothing is left.
local Reader = {}
Reader.__index = Reader

function Reader:take(len)
    if self.at + len > self.to then error("it ends within a field", 0) end
    local range = self.tvb(self.at, len)
    self.at = self.at + len
    return range
end

function Reader:varint()
    if self.at >= self.to then error("it ends within a field", 0) end
    local range = self:take(2 ^ floor(self.tvb(self.at, 1):uint() / 64))
    local len = range:len()
    if len == 8 then
        -- Beyond 2^53 the number in Lua is only near; what is shown is exact.
        local value = range:uint64():band(UInt64(0xffffffff, 0x3fffffff))
        return value:tonumber(), range, value
    end
    local value = range:uint() % (64 * 256 ^ (len - 1))
    return value, range, UInt64(value % 0x100000000, 0)
end

-- Reads a varint and shows it.
function Reader:show(tree, field)
    local value, range, exact = self:varint()
    return value, tree:add(field, range, exact)
end

function Reader:bytes(tree, field)
    local len = self:show(tree, f.length)
    local range = len > 0 and self:take(len) or nil
    if range then tree:add(field, range) end
    return range and range:raw() or ""
end

local function show_priority(reader, tree)
    local range = reader:take(1)
    local item = tree:add(f.priority, range)
    item:add(f.urgency, range)
    item:add(f.incremental, range)
end

local function show_error(reader, tree)
    local layer = reader:take(1)
    tree:add(f.layer, layer)
    local code, item = reader:show(tree, f.code)
    local name = layer:uint() == 1 and CODES[code] or tostring(code)
    item:append_text(" (" .. name .. ")")
    return name
end

-- Each returns what the summary says behind the frame's name.
local bodies = {}

local function stream_of(reader, tree, connection)
    local id = reader:show(tree, f.stream)
    local protocol = connection.streams[id]
    if protocol then tree:add(f.protocol, protocol):set_generated() end
    return id
end

bodies[0x01] = function(reader, tree) tree:add(f.ping, reader:take(8)) end
bodies[0x02] = bodies[0x01]
bodies[0x03] = function(reader, tree) return reader:show(tree, f.maximum) end
bodies[0x04] = function(reader, tree, connection)
    local id = stream_of(reader, tree, connection)
    return id .. ": " .. reader:show(tree, f.maximum)
end
bodies[0x05] = function(reader, tree)
    local maximum = reader:show(tree, f.maximum)
    return maximum .. ", each " .. reader:show(tree, f.window)
end
bodies[0x06] = function(reader, tree, connection)
    local id = stream_of(reader, tree, connection)
    return id .. " " .. show_error(reader, tree)
end
bodies[0x07] = bodies[0x06]
bodies[0x08] = function(reader, tree, connection, direction)
    local id = reader:show(tree, f.stream)
    show_priority(reader, tree)
    reader:show(tree, f.window)
    local form, item = reader:show(tree, f.form)
    local name
    -- Ids are consecutive. If others came before the first that can be read, in P1 or P3, so perhaps did names, and what indices mean is not known.
    direction.first_open = direction.first_open or id
    if form == 1 or form == 2 then
        name = reader:bytes(tree, f.protocol)
        -- Looked at again, the stream is known already.
        if form == 1 and not connection.streams[id] then table.insert(direction.names, name) end
    elseif form >= 3 and direction.first_open < 2 then
        name = direction.names[form - 2]
        if name then item:add(f.protocol, name):set_generated() end
    end
    connection.streams[id] = connection.streams[id] or name or ""
    return id .. (name and " " .. name or "")
end
bodies[0x09] = function(reader, tree, connection)
    local id = stream_of(reader, tree, connection)
    show_priority(reader, tree)
    return id
end
bodies[0x0a] = function(reader, tree)
    local name = show_error(reader, tree)
    local reason = reader:bytes(tree, f.reason)
    return name .. (reason ~= "" and " \"" .. reason .. "\"" or "")
end
bodies[0x0b] = function(reader, tree)
    local code, item = reader:show(tree, f.code)
    item:append_text(" (" .. (CODES[code] or code) .. ")")
    return CODES[code] or code
end
bodies[0x0c] = function(reader, tree) reader:bytes(tree, f.other) end
bodies[0x0d] = bodies[0x0c]
for kind = 0x10, 0x13 do
    bodies[kind] = function(reader, tree, connection)
        local flags = reader.tvb(reader.at - 1, 1)
        tree:add(f.fin, flags)
        tree:add(f.len, flags)
        local id = stream_of(reader, tree, connection)
        local len = reader.to - reader.at
        if kind >= 0x12 then len = reader:show(tree, f.length) end
        if len > 0 then tree:add(f.payload, reader:take(len)) end
        return id .. ", " .. len .. " bytes" .. (kind % 2 == 1 and ", FIN" or "")
    end
end

local function show_frame(reader, tree, connection, direction)
    local from = reader.at
    local kind, range = reader:varint()
    local skippable = kind >= 0x40 and kind <= 0x3fff
    local name, detail = FRAMES[kind] or skippable and "SKIPPABLE", nil
    if not name then error("a frame of an unknown type", 0) end
    local item = tree:add(f.frame, range, name)
    item:add(f.kind, range, kind)
    if kind == 0 then
        local zeros = reader.to - reader.at
        if zeros > 0 and reader:take(zeros):raw():find("[^%z]") then error("padding that is not zero", 0) end
    elseif skippable then
        reader:bytes(item, f.other)
    else
        detail = bodies[kind](reader, item, connection, direction)
    end
    local text = name .. (detail and " " .. detail or "")
    item:set_text(text)
    item:set_len(reader.at - from)
    return kind ~= 0 and text
end

-- Units --------------------------------------------------------------------------------------------------------------

local function show_record(tvb, unit, item, connection, direction)
    local title = direction.name .. " record " .. unit.n
    item:append_text(", " .. title)
    if unit.flight then
        item:add(f.flight, unit.flight)
        item:add(f.mode, "IK"):set_generated()
    end
    item:add(f.suite, unit.suite.name):set_generated()
    item:add(f.number, UInt64(unit.n % 0x100000000, floor(unit.n / 0x100000000))):set_generated()
    item:add(f.quanta, unit.size / QUANTUM):set_generated()
    if unit.authentic ~= nil then item:add(f.authentic, unit.authentic):set_generated() end
    item:add(f.tag, tvb(unit.size - TAG, TAG))

    local plain = ByteArray.new(unit.plain, true):tvb(title)
    local header = item:add(f.header, plain(0, 1))
    for _, field in ipairs { f.reserved, f.ends, f.key_update, f.next_size } do header:add(field, plain(0, 1)) end
    local reader = setmetatable({ tvb = plain, at = 1, to = 1 + (unit.area or plain:len() - 1) }, Reader)
    local said = {}
    while reader.at < reader.to do
        local good, text = pcall(show_frame, reader, item, connection, direction)
        if not good or byte(unit.plain) >= 0x40 then
            item:add_proto_expert_info(malformed, "Cannot be read (" .. tostring(text) .. "): is a segment missing, or the key wrong?")
            said[#said + 1] = "cannot be read"
            break
        end
        if text then said[#said + 1] = text end
    end
    return (unit.flight and "flight 3, " or "") .. title .. " [" .. table.concat(said, "; ") .. "]"
end

local function show_flight(tvb, unit, item, connection)
    item:append_text(", " .. unit.kind)
    item:add(f.flight, unit.kind)
    if connection.mode then item:add(f.mode, connection.mode):set_generated() end
    local function sealed(from, len, what)
        item:add(f.sealed, tvb(from, len)):set_text(what .. ", encrypted: " .. len .. " bytes")
    end
    if unit.kind == "M1" then
        item:add(f.ephemeral, tvb(0, 32))
        item:add(f.kem_key, tvb(32, 1184))
        sealed(1216, 48, "Initiator's static key, or random")
        sealed(1264, 1552, "P1, or random")
    elseif unit.kind == "M2" then
        item:add(f.ephemeral, tvb(0, 32))
        sealed(32, 1104, "ML-KEM-768 ciphertext")
        if connection.mode == "IK" then
            sealed(1136, 272, "P2")
        else
            sealed(1136, 48, connection.mode and "Responder's static key" or "Responder's static key in fallback, P2 in IK")
            sealed(1184, 224, "P2")
        end
    elseif connection.mode == "fallback" then
        sealed(0, 48, "Initiator's static key")
        sealed(48, 1360, "P3")
    else
        sealed(0, QUANTUM, "i2r record 0 in IK, static key and P3 in fallback")
    end
    return unit.kind
end

local function show(tvb, unit, tree, connection, direction)
    local item = tree:add(peermux, tvb())
    item:add(f.direction, direction.name):set_generated()
    if unit.kind == "record" then return show_record(tvb, unit, item, connection, direction) end
    if unit.kind == "M1" or unit.kind == "M2" or unit.kind == "flight 3" then
        return show_flight(tvb, unit, item, connection)
    end
    item:add(f.sealed, tvb())
    if unit.kind == "closed" then
        item:add_proto_expert_info(closed)
        return "records"
    elseif unit.kind == "lost" then
        item:add_proto_expert_info(malformed)
        return "cannot be read"
    end
    return "bytes after the last record"
end

function peermux.dissector(tvb, pinfo, tree)
    if tvb:len() < tvb:reported_len() then return 0 end
    local connection, direction, side = connection_for(tvb, pinfo)
    if not connection then return 0 end
    pinfo.cols.protocol = "peermux"
    local said, offset = {}, 0
    while offset < tvb:len() do
        local data = tvb:raw(offset)
        local name = data:sub(1, 16)
        local unit, needed = connection.units[side .. name], nil
        if not unit and not pinfo.visited then
            unit, needed = next_unit(connection, direction, side, data)
            if unit then connection.units[side .. name] = unit end
        end
        if not unit or #data < unit.size then
            needed = unit and unit.size or needed
            pinfo.desegment_offset = offset
            pinfo.desegment_len = needed and needed - #data or DESEGMENT_ONE_MORE_SEGMENT
            break
        end
        said[#said + 1] = show(tvb(offset, unit.size):tvb(), unit, tree, connection, direction)
        offset = offset + unit.size
    end
    if #said > 0 then pinfo.cols.info = table.concat(said, ", ") end
    return tvb:len()
end

peermux:register_heuristic("tcp", function(tvb, pinfo, tree)
    if not begins(tvb) then return false end
    pinfo.conversation = peermux
    peermux.dissector(tvb, pinfo, tree)
    return true
end)
DissectorTable.get("tcp.port"):add_for_decode_as(peermux)
