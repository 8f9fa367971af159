// Directories of restored machines that hold their driver's files whole, and no images of the switch's keeping: each
// goes as a whole, when its machine has been ended or is reached elsewhere, and no snapshot names a file in it.

/** A file of this name says that a directory is one. */
export const wholeMark = '.whole'
/** … and this one that its machine was ended. */
export const endedMark = '.ended'
