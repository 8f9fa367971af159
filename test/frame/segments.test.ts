// Frames on the wire that a GSO frame stands for: the same number before it is cut up, after, and when put together
// again.

import t from 'tap'
import { segmentsOf } from '../../src/frame/segments.js'
import { tcpSegment } from '../forwarding/lan.js'
import { frame } from '../forwarding/rig.js'

t.test('counted as the kernel cuts', async (t) => {
  t.equal(segmentsOf(frame({})), 1)
  for (const [payload, size, segments] of [
    [1448, 1448, 1],
    [1449, 1448, 2],
    [64000, 1448, 45],
    [0, 1448, 1],
    [3000, 1000, 3],
  ]) {
    t.equal(segmentsOf(tcpSegment({ payload, size })), segments, `${payload} by ${size}`)
  }
  t.equal(segmentsOf(tcpSegment({ payload: 2000, size: 1000, type: 0x81 })), 2, 'with ECN')
  t.equal(segmentsOf(tcpSegment({ payload: 2012, size: 1000, type: 5 })), 3, 'UDP has a shorter header')
})

t.test('a header that lies counts as one frame, and costs nothing', async (t) => {
  t.equal(segmentsOf(tcpSegment({ payload: 2000, size: 0 })), 1)
  const lying = tcpSegment({ payload: 2000, size: 1000 })
  lying.bytes[lying.vnet + 7] = 0xff
  t.equal(segmentsOf(lying), 1)
  t.equal(segmentsOf(tcpSegment({ payload: 2000, size: 1000, type: 3 })), 1, 'UDP that wants to be fragmented')
})
