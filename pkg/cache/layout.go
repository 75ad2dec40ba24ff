package cache

// What lies in a cache. The tree of the first fileset is the bottom's root
// itself, as in the original; a further fileset lives in its own ROOT folder.
//
//	/.intermezzo/               control folder, root only, hidden by presto
//	    cache                   what this cache is (TOML, type Info)
//	    lock                    flock(2)ed while a process owns the cache
//	    ids, ids.journal        index of object ids to inodes; derived, may be deleted
//	    FILESET/
//	        fileset             what this fileset is here (TOML, type FilesetInfo)
//	        ROOT                symlink to ../.. (first fileset) or a folder (others)
//	        kml, kml.index      the log of changes made here
//	        order, order.index  the log of the fileset, as far as this host has it
//	        lml                 intents in flight and files being written
//	        stage/              content and objects on their way in
const (
	ControlDir   = ".intermezzo"
	InfoFile     = "cache"
	LockFile     = "lock"
	IndexFile    = "ids"
	JournalFile  = "ids.journal"
	FilesetFile  = "fileset"
	RootName     = "ROOT"
	KMLFile      = "kml"
	KMLIndex     = "kml.index"
	OrderFile    = "order"
	OrderIndex   = "order.index"
	LMLFile      = "lml"
	StageDir     = "stage"
	FormatNumber = 1 // of the layout; a cache with a higher one is refused
)

// Xattrs that presto keeps on the bottom file system and hides from
// applications. All names with XattrPrefix are ours.
const (
	XattrPrefix = "trusted.izo"
	XattrID     = "trusted.izo"     // object id and stamp, on any object that is not native
	XattrPos    = "trusted.izo.pos" // applied position, on the fileset's control folder
)
