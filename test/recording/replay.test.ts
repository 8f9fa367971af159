// Recorded runs, replayed: the same comes out, to the last bit; and what is otherwise is found.

import t from 'tap'
import { Replay } from '../../switch/recording/replay.js'
import { type SceneName, scenes } from './scenes.js'

function replayed(file: Uint8Array): Replay {
  const replay = new Replay([file])
  replay.run()
  return replay
}

for (const name of Object.keys(scenes) as SceneName[]) {
  for (const midway of [false, true]) {
    t.test(`${name}${midway ? ', recorded from midway' : ''}`, async (t) => {
      for (const file of scenes[name](400, midway)) {
        const replay = replayed(file)
        t.equal(replay.difference, null, 'the same comes out')
        t.equal(replay.damagedBefore, null)
        t.equal(replay.end?.frames, replay.frames)
        t.ok(replay.frames > 100 && replay.marks > 5)
      }
    })
  }
}
