//! Frames, from JSON to bytes and back: `docs/spec.md` sections 21.1 and 21.3.

use alloc::vec;
use alloc::vec::Vec;

use serde_json::{Value, json};

use super::{Outputs, bytes, flag, list, number, optional, outputs, size, text};
use crate::code::{Code, ProtocolCode};
use crate::codec::Writer;
use crate::wire::{
    Attestation, Close, Drain, Frame, Frames, MAX_RECORD, MaxData, MaxStreamData, MaxStreams, Name, Open, Ping, Pong,
    Priority, PriorityUpdate, QUANTUM, Reset, Stop, StreamData,
};

fn priority(json: &Value) -> Priority {
    let byte = size(json);
    Priority::new(byte & 0x07, byte & 0x08 != 0)
}

fn code(json: &Value) -> Code {
    Code::from_wire(size(&json["layer"]), number(&json["code"])).expect("a layer")
}

/// The payload of a STREAM frame, or what else a frame holds as bytes.
fn body(json: &Value) -> Vec<u8> {
    if let Some(len) = json["payload_counter"].as_u64() {
        return (0..len).map(|i| (i % 251) as u8).collect();
    }
    if let Some(settings) = json["settings"].as_array() {
        let mut out = vec![0; 16 * settings.len()];
        let mut writer = Writer::new(&mut out);
        for setting in settings {
            writer.varint(number(&setting[0]));
            writer.varint(number(&setting[1]));
        }
        let len = writer.len();
        out.truncate(len);
        return out;
    }
    ["payload", "attestation", "bytes"].iter().find_map(|name| json.get(*name)).map(bytes).unwrap_or_default()
}

/// The frame that JSON describes, whose bytes are in `body`; `None` for padding, which is no frame to a receiver.
fn frame<'a>(json: &'a Value, body: &'a [u8]) -> Option<Frame<'a>> {
    let stream = optional(&json["stream"]).unwrap_or(0);
    let maximum = optional(&json["maximum"]).unwrap_or(0);
    let window = optional(&json["window"]).unwrap_or(0);
    Some(match text(&json["type"]) {
        "PADDING" => return None,
        "PING" => Frame::Ping(Ping(super::array(&json["data"]))),
        "PONG" => Frame::Pong(Pong(super::array(&json["data"]))),
        "MAX_DATA" => Frame::MaxData(MaxData(maximum)),
        "MAX_STREAM_DATA" => Frame::MaxStreamData(MaxStreamData { stream, maximum }),
        "MAX_STREAMS" => Frame::MaxStreams(MaxStreams { maximum, window }),
        "RESET" => Frame::Reset(Reset { stream, code: code(json) }),
        "STOP" => Frame::Stop(Stop { stream, code: code(json) }),
        "OPEN" => {
            let name = match text(&json["form"]) {
                "none" => Name::None,
                "new" => Name::Entered(text(&json["name"])),
                "once" => Name::Literal(text(&json["name"])),
                "index" => Name::Index(number(&json["index"])),
                form => panic!("an unknown form: {form}"),
            };
            Frame::Open(Open { stream, priority: priority(&json["priority"]), window, name })
        }
        "PRIORITY" => Frame::Priority(PriorityUpdate { stream, priority: priority(&json["priority"]) }),
        "CLOSE" => Frame::Close(Close { code: code(json), reason: text(&json["reason"]) }),
        "DRAIN" => Frame::Drain(Drain(ProtocolCode(number(&json["code"])))),
        "SETTINGS" => Frame::Settings(body),
        "ATTESTATION" => Frame::Attestation(Attestation(body)),
        "STREAM" => Frame::Stream(StreamData { stream, fin: flag(&json["fin"]), payload: body }),
        "SKIPPABLE" => Frame::Skipped(number(&json["number"])),
        kind => panic!("an unknown frame: {kind}"),
    })
}

/// Writes the frame as the connection would. It writes skippable frames without a body only; so they are put together here.
fn encode(json: &Value) -> Vec<u8> {
    let body = body(json);
    let mut out = vec![0; usize::from(MAX_RECORD) * QUANTUM];
    let mut writer = Writer::new(&mut out);
    match frame(json, &body) {
        None => writer.u8(0),
        Some(Frame::Skipped(kind)) => {
            writer.varint(kind);
            writer.prefixed(&body);
        }
        Some(Frame::Stream(StreamData { stream, fin, payload })) => {
            let len = flag(&json["len"]).then_some(payload.len());
            StreamData::encode_header(stream, fin, len, &mut writer);
            writer.bytes(payload);
        }
        Some(frame) => {
            let mut encoded = [0; 2048];
            let len = frame.encode(&mut encoded).expect("there is room");
            writer.bytes(&encoded[..len]);
        }
    }
    assert!(!writer.overflowed());
    let len = writer.len();
    out.truncate(len);
    out
}

/// The encodings of a list of frames; zeros are to follow up to the end of the frame area. What that area then holds is these frames, and no others.
pub(crate) fn area(list_of_frames: &Value, len: usize) -> Vec<u8> {
    let frames = list(list_of_frames);
    let mut area: Vec<u8> = frames.iter().flat_map(encode).collect();
    assert!(area.len() <= len);
    area.resize(len, 0);
    let mut decoded = Frames::new(&area);
    for json in frames {
        let body = body(json);
        assert_eq!(decoded.next(), frame(json, &body).map(Ok), "{json}");
    }
    assert_eq!(decoded.next(), None);
    area
}

pub(super) fn run(vector: &Value) -> Outputs {
    let json = &vector["frame"];
    let encoded = encode(json);
    let body = body(json);
    let mut decoded = Frames::new(&encoded);
    assert_eq!(decoded.next(), frame(json, &body).map(Ok), "{json}");
    assert_eq!(decoded.next(), None, "{json}");
    outputs(json!({ "hex": hex::encode(encoded) }))
}
