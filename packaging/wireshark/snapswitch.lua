-- Wireshark and tshark (4.0 and later) read what snapswitch puts on wires and into files:
--   control frames, carriers and agreements between switches (EtherType 0x88b5);
--   color tags of trunks (802.1ad), once a control frame was seen in the same file, or as the preference says;
--   what the comments of our captures, channel states, recordings and event traces say, as fields to filter by.
-- Records in our files, which are no packets, are shown with: tshark -X read_format:snapswitch -r FILE
--
-- Copy it to the plugin folder (Help > About > Folders), or: tshark -X lua_script:snapswitch.lua
-- The layouts are those of src/frame/*.ts, src/trace/*.ts and switch/recording/format.ts.

local MAGIC = 0x534e5357
local ETHERTYPE = 0x88b5
local SERVICE_TAG = 0x88a8
local GENERATIONS, LAST_VID = 4, 1023 * 4

local switch = Proto("snapswitch", "snapswitch")
local post = Proto("snapswitch_frame", "snapswitch, of this frame")
local record = Proto("snapswitch_record", "snapswitch record")

local types = { [1] = "HELLO", [2] = "MARKER", [3] = "MARKER_ACK", [4] = "AGREEMENT", [5] = "carrier", [6] = "location" }
local kinds = {
  [1] = "end of channel state", [2] = "events: head", [3] = "events: checksum", [4] = "events: end",
  [16] = "recording: head", [17] = "recording: checkpoint", [18] = "recording: tick", [19] = "recording: input",
  [20] = "recording: refused", [21] = "recording: mark", [22] = "recording: checksum", [23] = "recording: end",
}

local F = {
  version = ProtoField.uint8("snapswitch.version", "Version"),
  type = ProtoField.uint8("snapswitch.type", "Type", base.DEC, types),
  accepts = ProtoField.uint8("snapswitch.accepts", "Accepts generation"),
  sends = ProtoField.uint8("snapswitch.sends", "Sends in generation"),
  taken = ProtoField.bool("snapswitch.taken", "Generation is taken on for that end"),
  boot = ProtoField.uint64("snapswitch.boot", "Boot id", base.HEX),
  network = ProtoField.string("snapswitch.network", "Network"),
  host = ProtoField.string("snapswitch.host", "Host"),
  epoch = ProtoField.uint32("snapswitch.epoch", "Epoch"),
  count = ProtoField.uint64("snapswitch.count", "Colored frames sent", base.DEC),
  number = ProtoField.uint64("snapswitch.number", "Number of the channel's end", base.DEC),
  heard_boot = ProtoField.uint64("snapswitch.heard.boot", "For boot id", base.HEX),
  heard_number = ProtoField.uint64("snapswitch.heard.number", "For number", base.DEC),
  sequence = ProtoField.uint64("snapswitch.seal.sequence", "Sequence", base.DEC),
  seal_boot = ProtoField.uint64("snapswitch.seal.boot", "Sealed for boot id", base.HEX),
  seal_heard = ProtoField.uint64("snapswitch.seal.heard", "Last sequence heard of it", base.DEC),
  seal = ProtoField.bytes("snapswitch.seal", "Seal (HMAC-SHA-256)"),
  carries = ProtoField.bool("snapswitch.agreement.carries", "Frames are colored from now on"),
  claims = ProtoField.uint16("snapswitch.agreement.claims", "Claims"),
  claims_version = ProtoField.uint32("snapswitch.agreement.version", "Version of the claims"),
  held = ProtoField.uint32("snapswitch.agreement.held", "Version held"),
  read = ProtoField.uint32("snapswitch.agreement.read", "Version read"),
  reads_from = ProtoField.uint32("snapswitch.agreement.reads_from", "Reads colors from"),
  lowest = ProtoField.uint32("snapswitch.agreement.lowest", "Lowest color still given"),
  refused = ProtoField.bytes("snapswitch.agreement.refused", "Claims refused (a bit each)"),
  claim = ProtoField.ether("snapswitch.agreement.claim", "Claim"),
  generation = ProtoField.uint8("snapswitch.carrier.generation", "Generation"),
  piece = ProtoField.uint32("snapswitch.carrier.sequence", "Sequence"),
  whole = ProtoField.uint32("snapswitch.carrier.whole", "Bytes of the whole"),
  offset = ProtoField.uint32("snapswitch.carrier.offset", "Offset of this piece"),
  tpid = ProtoField.uint16("snapswitch.carrier.tpid", "Tag kept beside: TPID", base.HEX),
  tci = ProtoField.uint16("snapswitch.carrier.tci", "Tag kept beside: TCI", base.HEX),
  data = ProtoField.bytes("snapswitch.carrier.piece", "Piece"),
  vnet = ProtoField.bytes("snapswitch.vnet", "virtio-net header"),
  color = ProtoField.uint32("snapswitch.color", "Color"),
  uncolored = ProtoField.bool("snapswitch.uncolored", "No color"),
  tag_color = ProtoField.uint16("snapswitch.tag.color", "Color, modulo 1023"),
  tag_generation = ProtoField.uint8("snapswitch.tag.generation", "Generation"),
  verdict = ProtoField.string("snapswitch.verdict", "Verdict"),
  reason = ProtoField.string("snapswitch.reason", "Reason"),
  recorded = ProtoField.bool("snapswitch.recorded", "Recorded in transit"),
  own = ProtoField.uint32("snapswitch.port_epoch", "Epoch of the port"),
  event = ProtoField.uint32("snapswitch.event", "Event"),
  cause = ProtoField.uint32("snapswitch.event.of", "Comes of event"),
  kind = ProtoField.uint16("snapswitch.record.kind", "Record", base.DEC, kinds),
  length = ProtoField.uint32("snapswitch.record.length", "Length"),
  now = ProtoField.double("snapswitch.record.now", "Unix time, ms"),
  frames = ProtoField.uint32("snapswitch.record.frames", "Frames"),
  payload = ProtoField.bytes("snapswitch.record.payload", "Content"),
}
local all = {}
for _, field in pairs(F) do all[#all + 1] = field end
switch.fields = all

post.prefs.tags = Pref.enum("Colors in 802.1ad tags", 1, "When an outermost service tag is read as a color tag",
  { { 1, "once a control frame was seen", 1 }, { 2, "always", 2 }, { 3, "never", 3 } }, false)
local seen_control = false
function post.init() seen_control = false end

-- Adds fields in a row, as far as the bytes reach. Each: field, length.
local function row(tree, tvb, at, fields)
  for _, one in ipairs(fields) do
    if at + one[2] > tvb:len() then return tvb:len() end
    tree:add(one[1], tvb(at, one[2]))
    at = at + one[2]
  end
  return at
end

local function agreement(tree, tvb, at)
  if tvb:len() < at + 64 then return end
  row(tree, tvb, at, { { F.heard_boot, 8 }, { F.carries, 1 } })
  local count = tvb(at + 10, 2):uint()
  row(tree, tvb, at + 10, { { F.claims, 2 }, { F.claims_version, 4 }, { F.held, 4 }, { F.read, 4 },
    { F.reads_from, 4 }, { F.lowest, 4 }, { F.refused, 32 } })
  for number = 0, count - 1 do
    if row(tree, tvb, at + 64 + number * 6, { { F.claim, 6 } }) == tvb:len() then break end
  end
end

local function control(tvb, pinfo, tree, version, kind)
  if tvb:len() < 180 then return end
  seen_control = true
  tree:add(F.accepts, tvb(6, 1))
  local sends = tvb(7, 1):uint()
  tree:add(F.sends, tvb(7, 1), sends % 4)
  tree:add(F.taken, tvb(7, 1), sends < 4)
  row(tree, tvb, 8, { { F.boot, 8 }, { F.network, 64 }, { F.host, 64 }, { F.epoch, 4 }, { F.count, 8 },
    { F.number, 8 }, { F.heard_boot, 8 }, { F.heard_number, 8 } })
  if version == 4 then
    row(tree, tvb, 180, { { F.sequence, 8 }, { F.seal_boot, 8 }, { F.seal_heard, 8 }, { F.seal, 32 } })
  end
  if kind == 4 then agreement(tree, tvb, version == 4 and 236 or 180) end
  pinfo.cols.info:set(string.format("%s from host %s, network %s, epoch %d", types[kind], tvb(80, 64):stringz(),
    tvb(16, 64):stringz(), tvb(144, 4):uint()))
end

local function carrier(tvb, pinfo, tree, root)
  if tvb:len() < 36 then return end
  local from = row(tree, tvb, 6, { { F.generation, 1 } }) + 1
  row(tree, tvb, from, { { F.boot, 8 }, { F.color, 4 }, { F.piece, 4 }, { F.whole, 4 }, { F.offset, 4 },
    { F.tpid, 2 }, { F.tci, 2 } })
  local color, whole, offset = tvb(16, 4):uint(), tvb(24, 4):uint(), tvb(28, 4):uint()
  local label = string.format("color %d", color)
  local piece = tvb:len() - 36
  if offset == 0 and whole > 10 and whole <= piece then
    tree:add(F.vnet, tvb(36, 10))
    Dissector.get("eth_withoutfcs"):call(tvb(46, whole - 10):tvb(), pinfo, root)
    pinfo.cols.info:prepend("[carried, " .. label .. "] ")
  elseif piece > 0 then
    tree:add(F.data, tvb(36))
    pinfo.cols.info:set(string.format("carrier, %s, bytes %d to %d of %d", label, offset, offset + piece - 1, whole))
  end
end

function switch.dissector(tvb, pinfo, root)
  if tvb:len() < 6 or tvb(0, 4):uint() ~= MAGIC then return 0 end
  local version, kind = tvb(4, 1):uint(), tvb(5, 1):uint()
  pinfo.cols.protocol:set("snapswitch")
  local tree = root:add(switch, tvb(), "snapswitch " .. (types[kind] or ("type " .. kind)))
  tree:add(F.version, tvb(4, 1))
  tree:add(F.type, tvb(5, 1))
  pinfo.cols.info:set(string.format("%s, version %d", types[kind] or "unknown", version))
  if kind == 5 then carrier(tvb, pinfo, tree, root)
  elseif kind == 6 then pinfo.cols.info:set("location")
  elseif types[kind] ~= nil and (version == 3 or version == 4) then control(tvb, pinfo, tree, version, kind) end
  return tvb:len()
end
DissectorTable.get("ethertype"):add(ETHERTYPE, switch)

-- Color tags and comments --------------------------------------------------------------------------------------------

local comment_of = Field.new("frame.comment")
local ethernet_of = Field.new("eth.dst")

local function number_in(text, pattern) return tonumber(text:match(pattern)) end

-- What a comment of ours says, as field and value pairs in order; nil: it is not ours.
local function said(text)
  local found = {}
  local function put(field, value) if value ~= nil then found[#found + 1] = { field, value } end end
  local event, verdict = text:match("^snapswitch #(%d+) ([%a-]+)")
  if event ~= nil then
    put(F.event, tonumber(event))
    put(F.verdict, verdict)
    put(F.own, number_in(text, " epoch=(%d+)"))
    put(F.cause, number_in(text, " of=#(%d+)"))
    put(F.reason, text:match(" reason=([%a-]+)"))
    put(F.color, number_in(text, " color=(%d+)"))
    return found
  end
  if text:match("^snapswitch color=%d+ verdict=") then
    put(F.verdict, text:match(" verdict=([%a-]+)"))
    put(F.color, number_in(text, " color=(%d+)"))
    local header = text:match(" vnet=(%x+)$")
    if header ~= nil then put(F.vnet, ByteArray.new(header)) end
    return found
  end
  verdict = text:match("^(%a+)")
  local is_verdict = verdict == "received" or verdict == "delivered" or verdict == "held" or verdict == "dropped"
  if not is_verdict or not (text:match(", color %d+") or text:match(", no color")) then return nil end
  put(F.verdict, verdict)
  put(F.reason, text:match("^%a+: ([^,]+)"))
  if text:match(", in transit, recorded") then put(F.recorded, true) end
  put(F.color, number_in(text, ", color (%d+)"))
  if text:match(", no color") then put(F.uncolored, true) end
  put(F.own, number_in(text, ", epoch (%d+)"))
  return found
end

local function color_tag(tvb, tree)
  if tvb:len() < 18 or ethernet_of() == nil or tvb(12, 2):uint() ~= SERVICE_TAG then return end
  local wanted = post.prefs.tags
  if wanted == 3 or (wanted == 1 and not seen_control) then return end
  local vid = tvb(14, 2):uint() % 4096
  local mine = tree:add(post, tvb(12, 4), "snapswitch color tag")
  if vid == 0 or vid > LAST_VID then
    mine:add(F.uncolored, tvb(14, 2), true)
  else
    mine:add(F.tag_color, tvb(14, 2), math.floor((vid - 1) / GENERATIONS))
    mine:add(F.tag_generation, tvb(14, 2), (vid - 1) % GENERATIONS)
  end
end

function post.dissector(tvb, _, root)
  color_tag(tvb, root)
  for _, info in ipairs({ comment_of() }) do
    local found = said(tostring(info.value))
    if found ~= nil then
      local tree = root:add(post, tvb(0, 0), "snapswitch, of this frame")
      for _, one in ipairs(found) do
        if type(one[2]) == "userdata" then tree:add(one[1], one[2]:tvb("virtio-net header")())
        else tree:add(one[1], one[2]) end
      end
    end
  end
end
register_postdissector(post)

-- Records in our files -----------------------------------------------------------------------------------------------

local RECORD_MAGIC = "snapsw\0\1"
local SECTION, INTERFACE, PACKET, LOCAL = 0x0a0d0d0a, 1, 6, 0x80737377
local MOST = 16 * 1024 * 1024
local RECORD_ENCAP = wtap_encaps.USER15
local json = Dissector.get("json")

function record.dissector(tvb, pinfo, root)
  if tvb:len() < 16 or tvb:raw(0, 8) ~= RECORD_MAGIC then return 0 end
  local kind, length = tvb(8, 2):le_uint(), tvb(12, 4):le_uint()
  pinfo.cols.protocol:set("snapswitch")
  pinfo.cols.info:set(kinds[kind] or ("record " .. kind))
  local tree = root:add(record, tvb())
  tree:add_le(F.kind, tvb(8, 2))
  tree:add_le(F.length, tvb(12, 4))
  if length == 0 or length > tvb:len() - 16 then return tvb:len() end
  local content = tvb(16, length)
  if kind == 1 and length == 4 then tree:add_le(F.frames, content)
  elseif kind == 18 and length == 8 then
    tree:add_le(F.now, content)
    pinfo.cols.info:append(string.format(" %.3f", content:le_float()))
  elseif kind == 2 or kind == 4 or kind == 16 or kind == 19 or kind == 23 then
    local info = tostring(pinfo.cols.info)
    json:call(content:tvb(), pinfo, root)
    pinfo.cols.protocol:set("snapswitch")
    pinfo.cols.info:set(kinds[kind] .. " " .. content:string():sub(1, 80))
  else tree:add(F.payload, content) end
  return tvb:len()
end
DissectorTable.get("wtap_encap"):add(RECORD_ENCAP, record)

local function u16(bytes, at)
  local a, b = bytes:byte(at, at + 1)
  return a + b * 256
end
local function u32(bytes, at) return u16(bytes, at) + u16(bytes, at + 2) * 65536 end

-- Calls `act` for each option: code, value.
local function each_option(bytes, at, act)
  while at + 3 <= #bytes do
    local code, length = u16(bytes, at), u16(bytes, at + 2)
    if code == 0 or at + 3 + length > #bytes then return end
    act(code, bytes:sub(at + 4, at + 3 + length))
    at = at + 4 + length + (-length) % 4
  end
end

-- The next block: type, what is between its lengths; nil at the end, or where the file is none that we write.
local function next_block(file)
  local head = file:read(8)
  if head == nil or #head < 8 then return nil end
  local kind, total = u32(head, 1), u32(head, 5)
  if total < 12 or total % 4 ~= 0 or total > MOST then return nil end
  local rest = file:read(total - 8)
  if rest == nil or #rest < total - 8 then return nil end
  return kind, rest:sub(1, -5)
end

local handler = FileHandler.new("snapswitch trace", "snapswitch", "a trace of snapswitch, its records too", "rs")

function handler.read_open(file, capture)
  local kind, body = next_block(file)
  if kind ~= SECTION or u32(body, 1) ~= 0x1a2b3c4d then return false end
  local is_ours = false
  each_option(body, 17, function(code, value)
    if (code == 1 or code == 4) and value:sub(1, 10) == "snapswitch" then is_ours = true end
  end)
  if not is_ours then return false end
  capture.encap = wtap_encaps.PER_PACKET
  capture.time_precision = wtap_tsprecs.NSEC
  capture.snapshot_length = 262144
  capture.private_table = { ticks = {}, seconds = 0, nanoseconds = 0 }
  return true
end

local function fill(capture, frame, kind, body)
  local state = capture.private_table
  if kind == LOCAL then
    frame.encap = RECORD_ENCAP
    frame.captured_length, frame.original_length, frame.data = #body, #body, body
  else
    local length = u32(body, 13)
    local resolution = state.ticks[u32(body, 1)] or 1000000
    local ticks = UInt64(u32(body, 9), u32(body, 5))
    state.seconds = (ticks / UInt64(resolution)):tonumber()
    state.nanoseconds = (ticks % UInt64(resolution)):tonumber() * (1000000000 / resolution)
    frame.encap = wtap_encaps.ETHERNET
    frame.captured_length, frame.original_length, frame.data = length, u32(body, 17), body:sub(21, 20 + length)
    each_option(body, 21 + length + (-length) % 4, function(code, value) if code == 1 then frame.comment = value end end)
  end
  frame.rec_type = wtap_rec_types.PACKET
  frame.flags = wtap_presence_flags.TS + wtap_presence_flags.CAP_LEN
  -- A record has the time of the packet before it.
  frame.time = NSTime(state.seconds, state.nanoseconds)
end

function handler.read(file, capture, frame)
  while true do
    local at = file:seek()
    local kind, body = next_block(file)
    if kind == nil then return false end
    if kind == INTERFACE then
      local ticks = capture.private_table.ticks
      local resolution = 6
      each_option(body, 9, function(code, value) if code == 9 then resolution = value:byte(1) end end)
      local id = 0
      while ticks[id] ~= nil do id = id + 1 end
      ticks[id] = 10 ^ resolution
    elseif kind == LOCAL or (kind == PACKET and #body >= 20) then
      fill(capture, frame, kind, body)
      return at
    end
  end
end

function handler.seek_read(file, capture, frame, at)
  file:seek("set", at)
  local kind, body = next_block(file)
  if kind == nil then return false end
  fill(capture, frame, kind, body)
  return true
end

register_filehandler(handler)
